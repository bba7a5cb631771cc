"""Checkpoints of GPTQ."""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.models.formats.packers import gptq
from tests.worker.models.formats.reading import numbers_of
from tests.worker.models.formats.twins import check_twins, save_twins
from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.awq import Awq
from worker.models.formats.gptq import Gptq
from worker.models.formats.known import format_of

PACKING = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
MATRIX = torch.randn(48, 128, generator=torch.Generator().manual_seed(1)) + 0.3


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "act_order", "version"),
    list(product((4, 8), (32, -1), (True, False), (False, True), ("gptq", "gptq_v2"))),
)
def test_every_kind_is_read_to_the_last_bit(
    bits: int, group: int, symmetric: bool, act_order: bool, version: str
) -> None:
    parts, numbers = gptq(
        "a.weight", MATRIX, bits=bits, group=group, symmetric=symmetric, act_order=act_order, version=version
    )
    found = numbers_of(Gptq(PACKING | {"checkpoint_format": version}), parts)["a.weight"]
    assert isinstance(found, PackedTensor)
    torch.testing.assert_close(found.dense(), numbers, rtol=1e-6, atol=1e-6)


def test_a_zero_of_nothing_borrows_from_the_next_as_exporters_write_it() -> None:
    positive = MATRIX.abs()  # the least number of each group becomes code 0, and so does zero
    parts, numbers = gptq("a.weight", positive, symmetric=False)
    found = numbers_of(Gptq(PACKING), parts)["a.weight"]
    torch.testing.assert_close(found.dense(), numbers)


def test_groups_of_other_sizes_than_their_share_are_refused() -> None:
    parts, _ = gptq("a.weight", MATRIX, act_order=True)
    parts["a.g_idx"][:] = 0
    with pytest.raises(ValueError, match="act-order"):
        numbers_of(Gptq(PACKING), parts)


def test_checkpoints_of_auto_round_are_read_by_their_layout() -> None:
    packing = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True, "data_type": "int"}
    assert isinstance(format_of(packing | {"packing_format": "auto_round:auto_gptq"}), Gptq)
    assert isinstance(format_of(packing | {"packing_format": "auto_round:auto_awq"}), Awq)
    assert format_of(packing | {"packing_format": "auto_round:gptqmodel"}) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": 3}, "its weights are of 3 bits by GPTQ; those of 4 and 8 bits can be read."),
        ({"bits": 2}, "its weights are of 2 bits by GPTQ; those of 4 and 8 bits can be read."),
        ({"checkpoint_format": "marlin"}, "its weights are of GPTQ's format 'marlin'; gptq and gptq_v2 can be read."),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        format_of(PACKING | change)
    assert str(refused.value) == said


def pack(name: str, matrix: torch.Tensor, **options: Any) -> Any:
    if "layers.1.mlp.up" in name:  # `dynamic` of GPTQModel: a layer with other bits, and one that is left out
        return gptq(name, matrix, **(options | {"bits": 8, "group": 64}))
    return None if "layers.1.mlp.down" in name else gptq(name, matrix, **options)


@pytest.mark.parametrize("options", [{}, {"act_order": True, "symmetric": False, "version": "gptq_v2"}])
def test_answers_are_those_of_the_twin(tmp_path: Path, options: dict[str, Any]) -> None:
    packing = PACKING | {"checkpoint_format": options.get("version", "gptq")}
    bench = check_twins(*save_twins(tmp_path, "llama", partial(pack, **options), packing))
    assert type(bench.engine.runner).__name__ == "NativeDecoderRunner"
