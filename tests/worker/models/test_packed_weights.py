"""Checkpoints with packed weights: refused in a sentence where they cannot be read, and never packed again."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import save_model
from tests.worker.models.damaged import failure, set_config
from worker.kernels.quantized import Int8
from worker.models.dtypes import choose_dtype
from worker.models.formats.packing import check_unpacked
from worker.models.loader import EngineConfig

PACKED: dict[str, dict[str, Any]] = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
}


@pytest.mark.parametrize("library", PACKED)
def test_packed_weights_without_their_library_name_the_package_to_install(tmp_path: Path, library: str) -> None:
    if find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    folder = save_model(tmp_path, "llama")
    set_config(folder, quantization_config=PACKED[library])
    assert f"-m pip install {library})" in failure(folder)


def test_an_unknown_packing_is_refused_and_not_taken_for_missing_weights(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    set_config(folder, quantization_config={"quant_method": "exl3", "bits": 4.0})
    assert "packed by 'exl3'" in failure(folder)


def test_packed_weights_are_neither_packed_again_nor_cast() -> None:
    packing = {"quant_method": "bitsandbytes"}
    packed = SimpleNamespace(parameters=lambda: (), is_quantized=True, dtype=torch.half)

    with pytest.raises(ValueError, match="OMNI_QUANTIZE=int8 is for weights that are not packed"):
        check_unpacked(Int8(), packing)
    check_unpacked(None, packing)
    assert choose_dtype(EngineConfig(device="cpu"), torch.device("cpu"), packed, is_packed=True) is torch.half
    with pytest.raises(ValueError, match="compute in torch.float16, not in OMNI_DTYPE=float32; set it to auto"):
        choose_dtype(EngineConfig(device="cpu", dtype="float32"), torch.device("cpu"), packed, is_packed=True)


def test_a_packing_that_only_model_optimizer_s_own_file_tells_is_found(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    (folder / "hf_quant_config.json").write_text(
        '{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "W4A8_AWQ"}}'
    )
    assert "packed by Model Optimizer's 'W4A8_AWQ'" in failure(folder)


def test_fp8_without_a_word_on_its_scales_is_refused_and_not_taken_for_numbers(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors", {"format": "pt"})
    assert f"its {name} is in fp8, and config.json has no quantization_config" in failure(folder)
