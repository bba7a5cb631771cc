"""Checkpoints with packed weights: refused in a sentence where they cannot be read, and never packed again."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.models import save_model
from tests.worker.models.damaged import failure, set_config
from worker.kernels.quantized import Int8
from worker.models.loader import EngineConfig, choose_dtype
from worker.models.packed_weights import check_unpacked

CT_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
PACKED: dict[str, dict[str, Any]] = {
    "compressed_tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": CT_WEIGHTS}},
        "ignore": ["lm_head"],
    },
    "optimum": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
    "gptqmodel": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
}
INSTALLED_BY = {"compressed_tensors": "compressed-tensors", "optimum": "gptqmodel optimum"}


@pytest.mark.parametrize("library", PACKED)
def test_packed_weights_without_their_library_name_the_package_to_install(tmp_path: Path, library: str) -> None:
    if find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    folder = save_model(tmp_path, "llama")
    set_config(folder, quantization_config=PACKED[library])
    assert f"-m pip install {INSTALLED_BY.get(library, library)})" in failure(folder)


def test_an_unknown_packing_is_refused_and_not_taken_for_missing_weights(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    set_config(folder, quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"})
    assert "packed by 'modelopt'" in failure(folder)


def test_packed_weights_are_neither_packed_again_nor_cast() -> None:
    packed = SimpleNamespace(
        config=SimpleNamespace(quantization_config={"quant_method": "bitsandbytes"}),
        is_quantized=True,
        dtype=torch.half,
    )

    with pytest.raises(ValueError, match="OMNI_QUANTIZE=int8 is for weights that are not packed"):
        check_unpacked(Int8(), packed)
    check_unpacked(None, packed)
    assert choose_dtype(EngineConfig(device="cpu"), torch.device("cpu"), packed) is torch.half
