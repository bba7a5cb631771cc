"""Checkpoints of compressed-tensors, written by the library itself."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.models.formats.packers import compressed
from tests.worker.models.formats.reading import numbers_of
from tests.worker.models.formats.twins import Packed, check_twins, save_twins
from worker.kernels.packed.tensor import PackedTensor
from worker.models.formats.compressed import CompressedTensors
from worker.models.formats.known import format_of

MATRIX = torch.randn(128, 256, generator=torch.Generator().manual_seed(1)) + 0.3
TOKEN = {"strategy": "token", "dynamic": True, "symmetric": True, "num_bits": 8}
GROUPS = {"strategy": "group", "group_size": 32}
INT8 = {"type": "int", "num_bits": 8, "symmetric": True}
FP8 = {"type": "float", "num_bits": 8, "symmetric": True}
FP4 = {"type": "float", "num_bits": 4, "symmetric": True}
BLOCKS = {"strategy": "block", "block_structure": [128, 128]}
# the format, its weights, how inputs are rounded, and the kind that they are held as
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None, str]] = {
    "w4a16": ("pack-quantized", {"type": "int", "num_bits": 4, "symmetric": True, **GROUPS}, None, "int4"),
    "w4a16 asymmetric": ("pack-quantized", {"type": "int", "num_bits": 4, "symmetric": False, **GROUPS}, None, "int4"),
    "w4a16 channel": ("pack-quantized", {"type": "int", "num_bits": 4, "strategy": "channel"}, None, "int4"),
    "w8a16": ("pack-quantized", INT8 | GROUPS, None, "int8"),
    "w8a16 asymmetric": ("pack-quantized", INT8 | GROUPS | {"symmetric": False}, None, "int8"),
    "w8a16 channel": ("pack-quantized", INT8 | {"strategy": "channel"}, None, "int8"),
    "w8a8": ("int-quantized", INT8 | {"strategy": "channel"}, {"type": "int", **TOKEN}, "int8"),
    "w8a8 asymmetric": ("int-quantized", INT8 | {"strategy": "channel", "symmetric": False}, None, "int8"),
    "w8 naive": ("naive-quantized", INT8 | {"strategy": "tensor"}, None, "int8"),
    "fp8 dynamic": ("float-quantized", FP8 | {"strategy": "channel"}, {"type": "float", **TOKEN}, "fp8"),
    "fp8 static": ("float-quantized", FP8 | {"strategy": "tensor"}, {**FP8, "strategy": "tensor"}, "fp8"),
    "fp8 blocks": ("float-quantized", FP8 | BLOCKS, {"type": "float", **TOKEN}, "fp8_blocks"),
    "fp8 small blocks": ("naive-quantized", FP8 | BLOCKS | {"block_structure": [64, 64]}, None, "dense"),
    "nvfp4": (
        "nvfp4-pack-quantized",
        FP4 | {"strategy": "tensor_group", "group_size": 16, "scale_dtype": torch.float8_e4m3fn},
        None,
        "dense",
    ),
    "mxfp4": ("mxfp4-pack-quantized", FP4 | GROUPS | {"scale_dtype": torch.uint8}, None, "mxfp4"),
    "mxfp8": ("mxfp8-quantized", FP8 | GROUPS | {"scale_dtype": torch.uint8}, None, "dense"),
}
IN_ENGINES = ("w4a16 asymmetric", "w8a8", "fp8 dynamic", "mxfp4")


def packing_of(kind: str) -> dict[str, Any]:
    """The quantization_config."""
    from compressed_tensors.quantization import QuantizationScheme

    form, weights, inputs, _ = KINDS[kind]
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs, format=form)
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": scheme.model_dump(mode="json")},
        "ignore": ["lm_head", "re:.*gate$"],
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"},
        "sparsity_config": {},
        "transform_config": {},
    }


def pack(name: str, matrix: torch.Tensor, *, kind: str) -> Packed | None:
    form, weights, inputs, _ = KINDS[kind]
    if name.endswith(".gate.weight"):
        return None
    parts, numbers = compressed(name, matrix, form, weights=weights, input_activations=inputs)
    if name.endswith("k_proj.weight"):  # what kv_cache_scheme adds
        parts[name.replace("k_proj.weight", "k_scale")] = torch.ones(1)
    return parts, numbers


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_the_library_reads_it(kind: str) -> None:
    *_, inputs, held_as = KINDS[kind]
    packed = pack("a.weight", MATRIX, kind=kind)
    assert packed is not None
    found = numbers_of(CompressedTensors(packing_of(kind)), packed[0])["a.weight"]
    assert (found.weights.kind if isinstance(found, PackedTensor) else "dense") == held_as
    if isinstance(found, PackedTensor):
        assert found.weights.inputs == ({"int": "int8", "float": "fp8"}[inputs["type"]] if inputs else "")
        found = found.dense()
    error = 4e-3 if kind == "nvfp4" else 1e-6  # the library reads nvfp4 in bfloat16
    torch.testing.assert_close(found, packed[1], rtol=error, atol=1e-6)


def test_act_order_of_earlier_releases_is_read() -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    order = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    packed = pack("a.weight", MATRIX[:, order], kind="w4a16")
    assert packed is not None
    parts, numbers = packed
    codes = unpack_from_int32(parts["a.weight_packed"], 4, MATRIX.shape)[:, order.argsort()]
    parts["a.weight_packed"] = pack_to_int32(codes, 4)
    parts["a.weight_g_idx"] = order.argsort().int() // 32
    found = numbers_of(CompressedTensors(packing_of("w4a16")), parts)["a.weight"]
    assert isinstance(found, PackedTensor) and found.weights.order is not None
    torch.testing.assert_close(found.dense(), numbers[:, order.argsort()])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "marlin-24"}, "its weights are of compressed-tensors' format 'marlin-24', which cannot be read."),
        (
            {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "its weights are stored sparse by compressed-tensors; choose a checkpoint without sparsity_config.",
        ),
        (
            {"transform_config": {"config_groups": {"u": {}}}},
            "its weights need rotations of their inputs (transform_config); choose a checkpoint without them.",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        format_of(packing_of("w4a16") | change)
    assert str(refused.value) == said


@pytest.mark.parametrize("kind", IN_ENGINES)
def test_answers_are_those_of_the_twin(tmp_path: Path, kind: str) -> None:
    bench = check_twins(*save_twins(tmp_path, "llama", partial(pack, kind=kind), packing_of(kind)))
    assert type(bench.engine.runner).__name__ == "NativeDecoderRunner"


def test_experts_stay_packed_and_answer_as_their_twin(tmp_path: Path) -> None:
    small = {"hidden_size": 128, "intermediate_size": 128}
    check_twins(*save_twins(tmp_path, "mixtral", partial(pack, kind="w4a16"), packing_of("w4a16"), **small))
