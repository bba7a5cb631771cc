"""Checkpoints of AWQ."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.models.formats.packers import awq
from tests.worker.models.formats.reading import numbers_of
from tests.worker.models.formats.twins import Packed, check_twins, file_bytes, save_twins
from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.awq import Awq
from worker.models.formats.known import format_of

PACKING = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
MATRIX = torch.randn(48, 128, generator=torch.Generator().manual_seed(1)) + 0.3


@pytest.mark.parametrize("version", ["gemm", "gemv", "GEMM"])
def test_both_orders_of_columns_are_read_to_the_last_bit(version: str) -> None:
    parts, numbers = awq("a.weight", MATRIX, version=version.lower())
    found = numbers_of(Awq(PACKING | {"version": version}), parts)["a.weight"]
    assert isinstance(found, PackedTensor)
    torch.testing.assert_close(found.dense(), numbers)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": 8}, "its weights are of 8 bits by AWQ; those of 4 bits can be read."),
        ({"version": "gemv_fast"}, "its weights are of AWQ's format 'gemv_fast'; gemm and gemv can be read."),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        format_of(PACKING | change)
    assert str(refused.value) == said


def pack(name: str, matrix: torch.Tensor) -> Packed | None:
    return None if ".gate.weight" in name else awq(name, matrix)  # modules_to_not_convert: a router


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_answers_are_those_of_the_twin(tmp_path: Path, family: str) -> None:
    packed, twin = save_twins(tmp_path, family, pack, PACKING, hidden_size=128, intermediate_size=128)
    bench = check_twins(packed, twin)
    assert family != "llama" or type(bench.engine.runner).__name__ == "NativeDecoderRunner"
    assert file_bytes(packed) < file_bytes(twin)
