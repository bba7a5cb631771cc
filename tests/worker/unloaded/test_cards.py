"""The card of a model that is not loaded is that of the loaded one, and so are its sizes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import XLMRobertaConfig

from common.settings import DEMO_MODEL, ModelSettings
from common.wire import ModelCard
from tests.gguf_files import save_gguf
from tests.models import save_cross_encoder, save_encoder, save_model, save_pooling
from tests.service import ROOT
from tests.vision_models import save_vision_model
from tests.worker.fake_hub import COMMIT, FakeHub
from tests.worker.models.formats.packers import gptq
from tests.worker.models.formats.twins import WIDE, save_twins
from worker.embedding.encoder_model import load_encoder
from worker.engine.engine import Engine
from worker.models.formats.reader import weight_bytes
from worker.models.loader import EngineConfig, load
from worker.runners.choose import build_runner
from worker.unloaded.cards import cold_card, is_current, task_of
from worker.unloaded.sizes import size_of

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
ROOM = 8 * 2**20
CPU = EngineConfig(device="cpu", threads=1)


def gguf_of(tmp_path: Path) -> Path:
    folder = save_model(tmp_path / "model", "llama", **WIDE)
    return save_gguf(tmp_path / "tiny.gguf", folder, "llama", "Q4_1")


def of_no_generation_config(tmp_path: Path) -> Path:
    folder = save_model(tmp_path, "qwen3")
    (folder / "generation_config.json").unlink()
    return folder


def sentence_transformer(tmp_path: Path) -> Path:
    folder = save_encoder(tmp_path / "bert")
    save_pooling(folder, is_unit=True, pooling_mode="cls")
    return folder


GENERATING: dict[str, Callable[[Path], Path]] = {
    "demo": lambda _: DEMO_MODEL,
    "plain": of_no_generation_config,
    "gguf": gguf_of,
    "gptq": lambda folder: save_twins(folder, "llama", gptq, GPTQ)[0],
    "vision": lambda folder: save_vision_model(folder, "llava"),
}
ENCODING: dict[str, Callable[[Path], Path]] = {
    "embedder": lambda folder: save_encoder(folder),
    "sentence-transformer": sentence_transformer,
    "cross-encoder": lambda folder: save_cross_encoder(folder, XLMRobertaConfig),
}


def settings_of(path: Path, **given: Any) -> ModelSettings:
    values = {"source": str(path), "given_names": ("a", "b"), "device": "cpu", "threads": 1}
    return ModelSettings().model_copy(update=values | given)


def differences(one: ModelCard, other: ModelCard) -> dict[str, tuple[Any, Any]]:
    """All fields but the moment at which the card was made."""
    pairs = {field.name: (getattr(one, field.name), getattr(other, field.name)) for field in fields(ModelCard)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name != "created"}


@pytest.mark.parametrize("kind", GENERATING)
@pytest.mark.parametrize("max_model_len", [None, 64])
def test_the_card_of_a_model_that_generates_is_the_loaded_one_s(
    kind: str, max_model_len: int | None, tmp_path: Path
) -> None:
    path = GENERATING[kind](tmp_path)
    loaded = load(str(path), ("a", "b"), replace(CPU, max_model_len=max_model_len), lambda what, share: None)
    cold = cold_card(settings_of(path, max_model_len=max_model_len))
    assert differences(cold, loaded.card) == {}
    assert cold.accepts_images == (kind == "vision")
    assert is_current(loaded.card, settings_of(path, max_model_len=max_model_len))
    assert not is_current(loaded.card, settings_of(path, max_model_len=48))
    assert is_current(loaded.card, settings_of(path)) == (max_model_len is None)


@pytest.mark.parametrize("kind", ENCODING)
@pytest.mark.parametrize("max_model_len", [None, 32])
def test_the_card_of_an_encoder_is_the_loaded_one_s(kind: str, max_model_len: int | None, tmp_path: Path) -> None:
    path = ENCODING[kind](tmp_path)
    config = replace(CPU, max_model_len=max_model_len)
    loaded = load_encoder(str(path), ("a", "b"), config, lambda what, share: None)
    assert differences(cold_card(settings_of(path, max_model_len=max_model_len)), loaded.card) == {}
    assert size_of(str(path), config).weights == sum(weight_bytes(loaded.model).values())


def test_memory_alone_may_make_the_loaded_model_s_context_shorter() -> None:
    config = replace(CPU, kv_memory_bytes=2**20)
    engine = Engine(load(str(DEMO_MODEL), ("a", "b"), config, lambda what, share: None), config)
    assert differences(cold_card(settings_of(DEMO_MODEL)), engine.card).keys() == {"max_model_len"}


def test_a_card_is_made_without_the_weights(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    whole = cold_card(settings_of(folder))
    (folder / "model.safetensors").write_bytes(b"")
    without = cold_card(settings_of(folder))
    assert differences(whole, without).keys() == {"file_bytes", "revision"}


def test_a_card_of_changed_files_or_names_is_made_anew(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    card = cold_card(settings_of(folder))
    assert is_current(card, settings_of(folder))
    assert not is_current(card, settings_of(folder, given_names=("a",)))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert not is_current(card, settings_of(folder))


def test_the_task_of_a_folder_is_told_by_its_files(tmp_path: Path) -> None:
    made = {name: make(tmp_path / name) for name, make in (GENERATING | ENCODING).items() if name != "gguf"}
    found = {name: task_of(str(path)) for name, path in made.items()}
    assert found == {name: "generate" for name in made if name in GENERATING} | {
        "embedder": "embed",
        "sentence-transformer": "embed",
        "cross-encoder": "score",
    }
    save_pooling(made["plain"], is_unit=True, pooling_mode="lasttoken")
    assert task_of(str(made["plain"])) == "embed"


SCRIPT = """
from common.settings import ModelSettings
from worker.unloaded.cards import cold_card
card = cold_card(ModelSettings().model_copy(update={"source": "omni/small", "given_names": ("a",)}))
print(card.root, card.revision, card.max_model_len, card.task)
"""


def test_the_small_files_of_a_hub_model_are_fetched_and_no_weights(tmp_path: Path) -> None:
    hub = FakeHub("omni/small", {path.name: path.read_bytes() for path in DEMO_MODEL.iterdir() if path.is_file()})
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    try:
        command = [sys.executable, "-c", SCRIPT]
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    finally:
        hub.close()
    assert ran.stdout.split() == ["omni/small", COMMIT, "2048", "generate"], ran.stderr
    assert "tokenizer.json" in hub.asked and "model.safetensors" not in hub.asked


def test_a_hub_model_that_may_not_be_fetched_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.unloaded.cards.is_offline_mode", lambda: True)
    with pytest.raises(ValueError, match=r"not in the hub's cache, .* run omni models pull omni/none without that\.$"):
        cold_card(settings_of(Path("omni/none")))


@pytest.mark.parametrize(("key", "given"), [("quantize", "int8"), ("draft", "x"), ("adapters", (("x", "/x"),))])
def test_an_encoder_takes_no_keys_of_models_that_generate(key: str, given: Any, tmp_path: Path) -> None:
    settings = settings_of(save_encoder(tmp_path), **{"draft_model" if key == "draft" else key: given})
    with pytest.raises(ValueError, match=f"^it is an embedder, and {key} is for models that generate; remove that key"):
        cold_card(settings)


@pytest.mark.parametrize("kind", ["demo", "gguf", "gptq"])
def test_sizes_are_those_of_the_engine(kind: str, tmp_path: Path) -> None:
    path, config = GENERATING[kind](tmp_path), replace(CPU, kv_memory_bytes=ROOM)
    size = size_of(str(path), config)
    loaded = load(str(path), ("a",), config, lambda what, share: None)
    weights = sum(weight_bytes(loaded.model).values())
    _, limits = build_runner(loaded, config)
    assert size.kv_per_token * limits.block_size == limits.bytes_per_block
    assert weights <= size.weights <= 1.5 * weights  # a head that shares its weights is packed as a copy


def test_quantized_weights_take_less() -> None:
    from worker.kernels.quantized import quantization_named

    plain, packed = (size_of(str(DEMO_MODEL), replace(CPU, quantization=quantization_named(q))) for q in ("", "int8"))
    assert packed.weights < plain.weights / 2
