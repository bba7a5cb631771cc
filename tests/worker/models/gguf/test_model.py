"""GGUF files in the engine: quantized weights stay packed, and answers are those of the numbers they stand for."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader

from tests.gguf_files import save_gguf, save_twin
from tests.models import save_model
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.fit.checkpoint import read
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.quantized import Int8
from worker.models import loader
from worker.models.gguf.blocks import BLOCK_TYPES
from worker.models.gguf.model import gguf_model
from worker.models.loader import EngineConfig, import_family, load

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "initializer_range": 0.05}
FLOAT = replace(SMALL, dtype="float32")
PROMPTS = {"a": prompt_of(5), "b": prompt_of(21), "c": prompt_of(12, seed=2)}


def opened(path: Path, config: EngineConfig = FLOAT) -> Bench:
    return Bench(path, config)


@pytest.mark.parametrize("kind", [*BLOCK_TYPES, "F16", "BF16", "F32"])
def test_greedy_answers_are_those_of_the_dequantized_model(kind: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama", **WIDE)
    path = save_gguf(tmp_path / "tiny.gguf", folder, "llama", kind)
    bench, twin = opened(path), Bench(save_twin(folder, path, "llama", tmp_path / "twin"), FLOAT)
    for name, prompt in PROMPTS.items():
        bench.add(f"alone-{name}", prompt, max_tokens=24)
        bench.finish()
    for name, prompt in PROMPTS.items():
        bench.add(name, prompt, max_tokens=24)
    bench.finish()
    for name, prompt in PROMPTS.items():
        expected = twin.generate(prompt, 24)
        assert bench.token_ids(f"alone-{name}") == bench.token_ids(name) == expected
    packed = [isinstance(weight, PackedTensor) for weight in bench.loaded.model.parameters() if weight.dim() > 1]
    assert all(packed) if kind in BLOCK_TYPES else not any(packed)
    assert type(bench.engine.runner).__name__ == type(twin.engine.runner).__name__


def test_packed_weights_take_the_memory_that_the_file_does(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama", **WIDE)
    for kind, most in {"Q4_0": 1.0, "Q4_1": 1.0, "Q8_0": 1.0, "Q4_K": 1.12}.items():
        path = save_gguf(tmp_path / f"{kind}.gguf", folder, "llama", kind)
        loaded = load(str(path), ("m",), replace(SMALL, dtype="bfloat16"), lambda what, share: None)
        taken = {name: one.weights.num_bytes for name, one in packed_of(loaded.model)}
        stored = sum(int(tensor.n_bytes) for tensor in GGUFReader(path).tensors if len(tensor.shape) > 1)
        assert sum(taken.values()) <= most * stored, kind


def packed_of(model: torch.nn.Module) -> list[tuple[str, PackedTensor]]:
    return [(name, one) for name, one in model.named_parameters() if isinstance(one, PackedTensor)]


def test_experts_stay_packed(tmp_path: Path) -> None:
    changes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "use_sliding_window": False}
    folder = save_model(tmp_path / "model", "qwen2_moe", shared_expert_intermediate_size=32, **changes)
    path = save_gguf(tmp_path / "tiny.gguf", folder, "qwen2moe", "Q4_1")
    bench, twin = opened(path), Bench(save_twin(folder, path, "qwen2moe", tmp_path / "twin"), FLOAT)
    names = [name for name, _ in packed_of(gguf_loaded(path))]
    assert {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.down_proj"} <= set(names)
    bench.add("r", PROMPTS["b"], max_tokens=12)
    bench.finish()
    assert bench.token_ids("r") == twin.generate(PROMPTS["b"], 12)


def gguf_loaded(path: str | Path) -> torch.nn.Module:
    loaded: torch.nn.Module = load(str(path), ("m",), FLOAT, lambda what, share: None).model
    return loaded


def test_a_tied_head_is_the_packed_embedding(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama", tie_word_embeddings=True)
    model = gguf_loaded(save_gguf(tmp_path / "tiny.gguf", folder, "llama", "Q8_0"))
    assert isinstance(model.get_parameter("lm_head.weight"), PackedTensor)
    assert model.get_parameter("lm_head.weight") is model.get_parameter("model.embed_tokens.weight")


def test_the_card_is_made_of_the_file(model_folder: ModelFolder, tmp_path: Path) -> None:
    folder = model_folder()
    path = save_gguf(tmp_path / "tiny.gguf", folder, "llama", "Q8_0", tokenizer__ggml__eot_token_id=2)
    of_file = load(str(path), ("m",), FLOAT, lambda what, share: None).card
    of_folder = load(str(folder), ("m",), FLOAT, lambda what, share: None).card
    assert of_file.root == "tiny.gguf"
    assert (of_file.architecture, of_file.max_model_len, of_file.vocab_size) == ("llama", 256, 320)
    assert of_file.chat_template == of_folder.chat_template
    assert of_file.eos_token_ids == (0, 2)  # <|end|> by its id, <|assistant|> as the end of a turn
    assert of_file.special_tokens == of_folder.special_tokens
    path.touch()
    assert load(str(path), ("m",), FLOAT, lambda what, share: None).card.revision != of_file.revision


def test_texts_become_the_same_tokens(model_folder: ModelFolder, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", model_folder(), "llama", tokenizer__ggml__pre="gpt-2")
    ours = load(str(path), ("m",), FLOAT, lambda what, share: None).tokenizer
    theirs = load(str(model_folder()), ("m",), FLOAT, lambda what, share: None).tokenizer
    for text in ("the quick brown fox", " äöü ß 你好 🙂 12345", "<|user|>one<|end|>", "\n\n  two"):
        assert ours.encode(text).ids == theirs.encode(text).ids
        assert ours.decode(ours.encode(text).ids) == theirs.decode(theirs.encode(text).ids)


def test_parts_are_loaded_as_one_model(model_folder: ModelFolder, tmp_path: Path) -> None:
    whole = save_gguf(tmp_path / "whole.gguf", model_folder(), "llama", "Q8_0")
    first = save_gguf(tmp_path / "m-00001-of-00002.gguf", model_folder(), "llama", "Q8_0", part=(0, 5))
    save_gguf(tmp_path / "m-00002-of-00002.gguf", model_folder(), "llama", "Q8_0", part=(5, 100))
    bench, other = opened(whole), opened(first)
    for one in (bench, other):
        one.add("r", PROMPTS["a"])
        one.finish()
    assert bench.token_ids("r") == other.token_ids("r")


def test_an_architecture_that_is_not_read_is_named(model_folder: ModelFolder, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", model_folder(), "llama")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"llama", b"lame9"))
    with pytest.raises(ValueError, match="tiny.gguf is of architecture 'lame9', and GGUF files are read of llama, "):
        gguf_loaded(path)


def test_a_tensor_without_a_place_is_named(model_folder: ModelFolder, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", model_folder(), "llama")
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_norm", b"blk.1.ffn_nord"))
    with pytest.raises(ValueError, match=r"tiny.gguf has a tensor blk.1.ffn_nord.weight, which is not known of llama"):
        gguf_loaded(path)


LENGTH = b"llama.feed_forward_length" + struct.pack("<I", 4)  # a uint32


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            b"blk.1.ffn_up",
            b"blk.9.ffn_up",
            "1 of its 21 tensors are not in tiny.gguf, the first is blk.1.ffn_up.weight.",
        ),
        (b"blk.1.", b"blk.9.", "9 of its 21 tensors are not in tiny.gguf, the first is blk.1.attn_q.weight."),
        (
            LENGTH + struct.pack("<I", 64),
            LENGTH + struct.pack("<I", 128),
            "blk.0.ffn_gate.weight in tiny.gguf has the shape (64, 32), and by the file's metadata it is (128, 32).",
        ),
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_named_as_in_the_file(
    old: bytes, new: bytes, said: str, model_folder: ModelFolder, tmp_path: Path
) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", model_folder(), "llama")
    read(str(path))
    path.write_bytes(path.read_bytes().replace(old, new))
    for reads in (gguf_loaded, read):  # read() is that of omni fit
        with pytest.raises(ValueError, match=re.escape(said)):
            reads(str(path))


def test_packed_weights_are_not_packed_again(model_folder: ModelFolder, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", model_folder(), "llama", "Q8_0")
    with pytest.raises(ValueError, match="OMNI_QUANTIZE=int8 is for weights that are not packed, these are by 'gguf'"):
        load(str(path), ("m",), replace(SMALL, quantization=Int8()), lambda what, share: None)


def test_a_template_with_a_fault_is_named_by_its_file(model_folder: ModelFolder, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", model_folder(), "llama", tokenizer__chat_template="{% if %}")
    with pytest.raises(ValueError, match="tiny.gguf has a syntax error"):
        gguf_loaded(path)


def test_named_templates_are_found(model_folder: ModelFolder, tmp_path: Path) -> None:
    path = save_gguf(
        tmp_path / "tiny.gguf", model_folder(), "llama", tokenizer__chat_template__tool_use="{{ tools | tojson }}"
    )
    card = load(str(path), ("m",), FLOAT, lambda what, share: None).card
    assert card.tool_chat_template == "{{ tools | tojson }}"
    assert card.chat_template != card.tool_chat_template


def test_the_family_is_imported_beforehand(
    model_folder: ModelFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    import_family(str(save_gguf(tmp_path / "tiny.gguf", model_folder(), "llama", "Q8_0")))
    assert "is not prepared" not in caplog.text


def test_factors_of_rotary_frequencies_are_used(tmp_path: Path) -> None:
    """Llama 3.1 and later have them as a tensor."""
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    folder = save_model(tmp_path / "model", "llama", rope_parameters=rope)
    path = save_gguf(tmp_path / "tiny.gguf", folder, "llama")
    plain = gguf_model(str(path))
    assert plain is not None and plain.config.rope_parameters["rope_type"] == "longrope"
    bench, twin = opened(path), Bench(folder, FLOAT)
    prompt = prompt_of(150)
    bench.add("r", prompt)
    bench.finish()
    assert bench.token_ids("r") == twin.generate(prompt)
    frequencies = [one.loaded.model.model.rotary_emb.inv_freq for one in (bench, twin)]
    assert torch.allclose(*frequencies)


def test_a_small_packed_model_takes_one_thread(
    model_folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the bytes of its weights: SmolLM2-135M has more parameters than a small model, and 98 MB of them."""
    monkeypatch.setattr(loader, "SMALL_MODEL_PARAMETERS", 0)
    model = gguf_loaded(save_gguf(tmp_path / "tiny.gguf", model_folder(), "llama", "Q8_0"))
    plain = gguf_loaded(save_gguf(tmp_path / "plain.gguf", model_folder(), "llama", "F32"))
    assert loader.choose_threads(EngineConfig(), model) == 1
    assert loader.choose_threads(EngineConfig(), plain) == torch.get_num_threads()
    monkeypatch.setattr(loader, "SMALL_BYTES", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert loader.choose_threads(EngineConfig(), model) == loader.choose_threads(EngineConfig(), plain) == 7
    assert loader.choose_threads(EngineConfig(threads=2), model) == 2
