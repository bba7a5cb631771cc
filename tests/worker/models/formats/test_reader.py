"""What a checkpoint with packed weights lacks is said in a sentence; ranks that share a model get dense parts."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.worker.models.damaged import failure
from tests.worker.models.formats.test_fp8_blocks import PACKING, pack
from tests.worker.models.formats.twins import save_twins
from worker.models.formats.fp8_blocks import Fp8Blocks
from worker.models.formats.reader import dense_tensors, named_tensors


def test_parts_that_do_not_fit_name_the_tensor_and_the_format(tmp_path: Path) -> None:
    folder, _ = save_twins(tmp_path, "llama", pack, PACKING)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight_scale_inv"
    save_file(tensors | {name: torch.ones(3, 5)}, folder / "model.safetensors")
    assert "model.layers.1.mlp.down_proj.weight" in failure(folder)


def test_codes_without_their_scales_are_refused_and_not_taken_for_numbers(tmp_path: Path) -> None:
    folder, _ = save_twins(tmp_path, "llama", pack, PACKING)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    scales = tensors.pop(f"{name}.weight_scale_inv")
    save_file(tensors, folder / "model.safetensors")
    assert f"its {name}.weight is not packed as fp8 is: it is float8_e4m3fn, and its scales are in no file" in failure(
        folder
    )
    moved = tensors | {f"{name}.weight_scale_inv": scales, f"{name}.odd": tensors[f"{name}.weight"].clone()}
    save_file(moved, folder / "model.safetensors")
    assert f"its {name}.odd (F8_E4M3) is packed in a way that fp8 does not have" in failure(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder, _ = save_twins(tmp_path, "llama", pack, PACKING)
    (folder / "model.safetensors").unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in failure(folder)


def test_ranks_that_share_a_model_read_dense_parts(tmp_path: Path) -> None:
    folder, twin = save_twins(tmp_path, "llama", pack, PACKING)
    stored, expected = load_file(folder / "model.safetensors"), load_file(twin / "model.safetensors")
    found = dense_tensors(named_tensors(stored, Fp8Blocks(PACKING), torch.float32))
    name = "model.layers.0.mlp.up_proj.weight"
    assert found[name].get_shape() == list(expected[name].shape)
    assert torch.equal(found[name][10:20], expected[name][10:20])
    assert set(found) == set(expected)
