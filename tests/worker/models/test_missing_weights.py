"""Weights that a checkpoint lacks are counted by name, unless the model can do without them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import FAMILIES, HYBRID_FAMILIES, SEQUENTIAL_FAMILIES, save_encoder, save_model
from tests.vision_models import VISION_FAMILIES, save_vision_model
from tests.worker.models.damaged import failure, keep_weights, loaded, set_config
from worker.embedding.encoder_model import load_encoder
from worker.models.loader import EngineConfig
from worker.models.missing_weights import missing_weights


@pytest.mark.parametrize(
    "damage, said",
    [
        (
            lambda folder: set_config(folder, num_hidden_layers=12),
            "90 of its 111 weights are in no file, the first of them is model.layers.2.self_attn.q_proj.weight.",
        ),
        (
            lambda folder: set_config(folder, model_type="bert"),
            "weights are in no file, the first of them is bert.embeddings.word_embeddings.weight.",
        ),
        (lambda folder: keep_weights(folder, lambda name: "lm_head" not in name), "is lm_head.weight."),
        (lambda folder: keep_weights(folder, lambda name: "norm" not in name), "5 of its 21 weights are in no file"),
        (lambda folder: set_config(folder, attention_bias=True), "is model.layers.0.self_attn.q_proj.bias."),
    ],
)
def test_missing_weights_are_counted_and_refused(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    folder = save_model(tmp_path, "llama")
    damage(folder)
    assert said in failure(folder)


@pytest.mark.parametrize("family", [*FAMILIES, *HYBRID_FAMILIES, *SEQUENTIAL_FAMILIES])
def test_every_family_is_complete_when_saved_and_incomplete_without_its_last_layer(tmp_path: Path, family: str) -> None:
    folder = save_model(tmp_path, family)
    assert loaded(folder).card.architecture
    keep_weights(folder, lambda name: not {"layers.1", "h.1"} & set(re.findall(r"(?:layers|h)\.\d+", name)))
    assert "weights are in no file" in failure(folder)


def test_tied_weights_and_unused_weights_are_accepted(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    save_file(weights | {"mtp.norm.weight": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    assert loaded(folder).card.architecture == "llama"


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_a_vision_model_without_its_image_weights_is_served_for_text(tmp_path: Path, family: str) -> None:
    folder = save_vision_model(tmp_path, family)
    assert loaded(folder).card.accepts_images
    seeing = {"vision_tower", "vision_model", "visual", "connector", "multi_modal_projector"}
    keep_weights(folder, lambda name: not seeing & set(name.split(".")))
    model = loaded(folder)
    assert model.images is None and not model.card.accepts_images
    keep_weights(folder, lambda name: ".layers.1." not in name)
    assert "weights are in no file" in failure(folder)


def test_an_encoder_needs_all_but_its_pooler(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path)
    keep_weights(folder, lambda name: "pooler" not in name)
    config = EngineConfig(device="cpu")
    load_encoder(str(folder), ("tiny",), config, lambda what, share: None)
    keep_weights(folder, lambda name: "layer.1." not in name)
    with pytest.raises(ValueError, match="16 of its .* the first of them is encoder.layer.1.attention"):
        load_encoder(str(folder), ("tiny",), config, lambda what, share: None)


def test_a_packed_layer_is_missing_only_if_all_its_parts_are() -> None:
    packed = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    packed.is_quantized = True  # type: ignore[assignment]
    absent = {"missing_keys": {"a.bias", "b.weight", "b.bias", "buffer"}}
    assert missing_weights(packed, absent) == ["b.weight", "b.bias"]
    packed.is_quantized = False  # type: ignore[assignment]
    assert missing_weights(packed, absent) == ["a.bias", "b.weight", "b.bias"]
