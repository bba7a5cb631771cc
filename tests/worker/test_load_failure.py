"""A model that cannot be loaded: one sentence that says what to change, and the end unless it passes by itself."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from httpx2 import ConnectError, Request, Response
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file

from common.settings import read_settings
from tests.models import FAMILIES, HYBRID_FAMILIES, SEQUENTIAL_FAMILIES, save_encoder, save_model
from tests.vision_models import VISION_FAMILIES, save_vision_model
from worker import follower
from worker.embedding.encoder_model import load_encoder
from worker.kernels.quantized import Int8
from worker.load_failure import give_up, is_passing, reason
from worker.models.loader import EngineConfig, LoadedModel, choose_dtype, load
from worker.models.missing_weights import missing_weights
from worker.models.packed_weights import check_unpacked
from worker.ranks import Ranks

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


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def loaded(folder: Path, **config: Any) -> LoadedModel:
    return load(str(folder), ("tiny",), EngineConfig(device="cpu", **config), lambda what, share: None)


def failure(folder: Path, **config: Any) -> str:
    """What the operator reads."""
    with pytest.raises(Exception) as raised:
        loaded(folder, **config)
    assert not is_passing(raised.value)
    sentence = reason(raised.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("library", PACKED)
def test_packed_weights_without_their_library_say_what_to_install(tmp_path: Path, library: str) -> None:
    if find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    folder = save_model(tmp_path, "llama")
    set_config(folder, quantization_config=PACKED[library])
    assert f"-m pip install {INSTALLED_BY.get(library, library)})" in failure(folder)


def test_weights_packed_in_a_way_nobody_knows_are_refused_and_not_taken_for_missing_ones(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    set_config(folder, quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"})
    assert "packed by 'modelopt'" in failure(folder)


@pytest.mark.parametrize(
    "damage, said",
    [
        (cut, "cannot be read"),
        (lambda folder: set_config(folder, hidden_size=64), "other shapes than its config.json says"),
        (lambda folder: set_config(folder, hidden_act="nope"), "KeyError: 'nope'"),
        (lambda folder: set_config(folder, num_attention_heads=0), "ZeroDivisionError"),
        (lambda folder: set_config(folder, hidden_size="big"), "Field 'hidden_size' expected int"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must be a mapping"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "added_tokens"),
    ],
)
def test_files_that_are_damaged_or_do_not_fit_say_which(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = save_model(tmp_path, "llama")
    damage(folder)
    assert said in failure(folder)


def keep_weights(folder: Path, is_kept: Callable[[str], bool]) -> None:
    """The checkpoint without some of its weights."""
    path = folder / "model.safetensors"
    save_file({name: weight for name, weight in load_file(path).items() if is_kept(name)}, path, {"format": "pt"})


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
def test_weights_that_are_in_no_file_are_counted_and_not_made_up(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = save_model(tmp_path, "llama")
    damage(folder)
    assert said in failure(folder)


@pytest.mark.parametrize("family", [*FAMILIES, *HYBRID_FAMILIES, *SEQUENTIAL_FAMILIES])
def test_every_family_is_complete_as_it_is_saved_and_not_without_its_last_layer(tmp_path: Path, family: str) -> None:
    folder = save_model(tmp_path, family)
    assert loaded(folder).card.architecture
    keep_weights(folder, lambda name: not {"layers.1", "h.1"} & set(re.findall(r"(?:layers|h)\.\d+", name)))
    assert "weights are in no file" in failure(folder)


def test_weights_that_are_tied_and_weights_that_are_not_used_are_no_fault(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    save_file(weights | {"mtp.norm.weight": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    assert loaded(folder).card.architecture == "llama"


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_without_what_reads_images_a_models_text_is_served(tmp_path: Path, family: str) -> None:
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


def test_of_a_packed_layer_only_what_is_wholly_absent_is_missing() -> None:
    packed = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    packed.is_quantized = True  # type: ignore[assignment]
    absent = {"missing_keys": {"a.bias", "b.weight", "b.bias", "buffer"}}
    assert missing_weights(packed, absent) == ["b.weight", "b.bias"]
    packed.is_quantized = False  # type: ignore[assignment]
    assert missing_weights(packed, absent) == ["a.bias", "b.weight", "b.bias"]


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_with_a_syntax_error_is_refused_by_its_files_name(tmp_path: Path, file: str) -> None:
    folder = save_model(tmp_path, "llama")
    if file == "chat_template.jinja":
        (folder / file).write_text("{% for x in %}")
    else:
        (folder / "chat_template.jinja").unlink()
        tokenizer = json.loads((folder / file).read_text()) | {"chat_template": "{{ messages"}
        (folder / file).write_text(json.dumps(tokenizer))
    assert failure(folder).startswith(f"its {file} has a syntax error (line 1: ")


def test_a_template_that_may_refuse_messages_is_taken(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system message here') }}")
    assert loaded(folder).card.chat_template


def test_reports_of_transformers_are_kept_at_debug(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_model(tmp_path, "llama")
    set_config(folder, num_hidden_layers=12)
    capfd.readouterr()
    with caplog.at_level("DEBUG", "worker.models.loading_reports"):
        failure(folder)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())
    ours = [record for record in caplog.records if record.name == "worker.models.loading_reports"]
    assert [record.levelname for record in ours if "LOAD REPORT" in record.message] == ["DEBUG"]


def test_a_type_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    set_config(folder, model_type="nope")
    assert failure(folder).startswith("its config.json names the model_type 'nope', which transformers 5.")


def test_what_is_packed_is_not_packed_again_nor_cast() -> None:
    packed = SimpleNamespace(
        config=SimpleNamespace(quantization_config={"quant_method": "bitsandbytes"}),
        is_quantized=True,
        dtype=torch.half,
    )

    with pytest.raises(ValueError, match="OMNI_QUANTIZE=int8 is for weights that are not packed"):
        check_unpacked(Int8(), packed)
    check_unpacked(None, packed)
    assert choose_dtype(EngineConfig(device="cpu"), torch.device("cpu"), packed) is torch.half


def status_of(code: int) -> HfHubHTTPError:
    return HfHubHTTPError("no", response=Response(code, request=Request("GET", "https://hub")))


def because(cause: Exception) -> OSError:
    """As transformers says it."""
    error = OSError("We couldn't connect to the hub")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error, passes",
    [
        (because(status_of(503)), True),
        (because(status_of(429)), True),
        (because(status_of(404)), False),
        (because(ConnectError("no route")), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (torch.distributed.DistNetworkError("the other rank is gone"), True),
        (MemoryError(), False),
        (NotImplementedError("aten::to"), False),
        (TypeError("cannot assign"), False),
    ],
)
def test_only_what_passes_by_itself_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, passes: bool
) -> None:
    monkeypatch.setattr("worker.load_failure.is_offline_mode", lambda: False)
    with pytest.raises(SystemExit) as ended:
        give_up("OMNI_MODEL=some/model", error)
    assert ended.value.code == (75 if passes else 2)
    if not passes:
        assert capsys.readouterr().err.startswith("configuration: OMNI_MODEL=some/model cannot be loaded: ")


def test_a_rank_that_cannot_load_its_share_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_nothing(*args: object) -> None:
        raise ImportError("No module named 'torchao'", name="torchao")

    handlers: list[int] = []
    monkeypatch.setattr(follower.signal, "signal", lambda number, _: handlers.append(number))
    monkeypatch.setattr(follower, "load", load_nothing)
    with pytest.raises(SystemExit) as ended:
        follower.run(read_settings({}), Ranks())
    assert ended.value.code == 2
