"""Tiny GGUF files, written by the gguf package, of models that tests/models.py saves."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from worker.models.gguf.blocks import BLOCK_TYPES

NORMAL, CONTROL = 1, 3
KEYS = {  # of all architectures: field of transformers' configuration -> key without its prefix
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}
FACTORS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q4_1": (0, 2)}
TURNED = ("llama", "granite", "smollm3")  # whose queries and keys llama.cpp's converter turns
PLUS_ONE = ("gemma", "gemma2", "gemma3")
NO_WRITER = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")  # types that the package reads only


def save_gguf(
    path: Path, folder: Path, architecture: str, kind: str = "F32", part: tuple[int, int] = (0, 999), **changes: Any
) -> Path:
    """Write the model in `folder` as llama.cpp's converter does, matrices as type `kind`; `changes`: metadata.

    Of its tensors only those from part[0] to part[1], the others being in another file.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    writer = gguf.GGUFWriter(path, architecture)
    add_configuration(writer, model.config, architecture)
    add_tokenizer(writer, folder)
    for key, value in changes.items():
        add_value(writer, key.replace("__", "."), value)
    tensors = [*named_tensors(model, architecture), *rope_factors(model)]
    for name, numbers in tensors[slice(*part)]:
        is_quantized = numbers.ndim > 1 and kind not in ("F32", "F16") and "ffn_gate_inp" not in name
        if is_quantized:
            writer.add_tensor(name, encoded(numbers, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            writer.add_tensor(name, numbers.astype(np.float16) if numbers.ndim > 1 and kind == "F16" else numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rope_factors(model: Any) -> list[tuple[str, np.ndarray]]:
    """How much each rotary frequency is slowed down, where llama.cpp keeps that as a tensor."""
    rope = model.config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return []
    frequencies = model.model.rotary_emb.inv_freq
    width = 2 * len(frequencies)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    return [("rope_freqs.weight", (plain / frequencies).numpy())]


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def add_configuration(writer: gguf.GGUFWriter, config: Any, architecture: str) -> None:
    for field, key in KEYS.items():
        if (value := getattr(config, field, None)) is not None:
            add_value(writer, f"{architecture}.{key}", float(value) if "scal" in key or "softcap" in key else value)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    add_value(writer, f"{architecture}.attention.key_length", head)
    rope = config.rope_parameters
    theta = rope.get("full_attention", rope)["rope_theta"]
    add_value(writer, f"{architecture}.rope.freq_base", float(theta))


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    names = [tokenizer.convert_ids_to_tokens(index) for index in range(len(tokenizer))]
    added = tokenizer.get_added_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([CONTROL if name in added else NORMAL for name in names])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def named_tensors(model: Any, architecture: str) -> list[tuple[str, np.ndarray]]:
    """The tensors under the names that the gguf package knows, in llama.cpp's forms."""
    config = model.config
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names, found = gguf.get_tensor_name_map(arch, config.num_hidden_layers), []
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        parts = {key: tensor.float()}
        if key.endswith("experts.gate_up_proj"):
            stem = key.removesuffix("gate_up_proj")
            gate, up = tensor.float().chunk(2, dim=1)
            parts = {f"{stem}gate_proj.weight": gate, f"{stem}up_proj.weight": up}
        elif key.endswith("experts.down_proj"):
            parts = {f"{key}.weight": tensor.float()}
        for part, numbers in parts.items():
            name = names.get_name(part, try_suffixes=(".weight", ".bias"))
            assert name is not None, part
            found.append((name, converted(name, numbers, config, architecture).contiguous().numpy()))
    return found


def converted(name: str, numbers: torch.Tensor, config: Any, architecture: str) -> torch.Tensor:
    if architecture in TURNED and (".attn_q." in name or ".attn_k." in name):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        return numbers.view(heads, 2, len(numbers) // heads // 2, -1).transpose(1, 2).reshape(numbers.shape)
    if architecture in PLUS_ONE and name.endswith("norm.weight"):
        return numbers + 1
    return numbers[0] if "ffn_gate_inp_shexp" in name else numbers


def encoded(numbers: np.ndarray, kind: str) -> np.ndarray:
    if kind not in NO_WRITER:
        return np.asarray(quantize(numbers, gguf.GGMLQuantizationType[kind]))
    blocks = random_blocks(kind, numbers.size // BLOCK_TYPES[kind].columns, seed=numbers.size)
    return blocks.reshape(*numbers.shape[:-1], -1)


def random_blocks(kind: str, num_blocks: int, seed: int = 0) -> np.ndarray:
    """Blocks of random bytes [blocks, bytes] with small finite factors."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (num_blocks, BLOCK_TYPES[kind].num_bytes), dtype=np.uint8)
    for start in FACTORS.get(kind, (0,)):
        size = 0.2 / (1 << BLOCK_TYPES[kind].bits) / (16 if kind.endswith(("_K", "_XS")) else 1)
        factors = generator.normal(0, size, (num_blocks, 1)).astype(np.float16)
        blocks[:, start : start + 2] = factors.view(np.uint8)
    return blocks


def save_twin(folder: Path, path: Path, architecture: str, into: Path) -> Path:
    """A folder with the model of `folder` and the numbers of the GGUF file, as the gguf package reads them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    names = [name for name, _ in named_tensors(model, architecture)]
    config = model.config
    numbers = {name: torch.from_numpy(dequantize(stored[name].data, stored[name].tensor_type).copy()) for name in names}
    keys = [key for key in model.state_dict() if not (key == "lm_head.weight" and config.tie_word_embeddings)]
    restored, rest = {}, iter(names)
    for key in keys:
        first = numbers[(name := next(rest))]
        if key.endswith("experts.gate_up_proj"):
            restored[key] = torch.cat([first, numbers[next(rest)]], dim=1)
        else:
            restored[key] = back(name, first, config, architecture)
    model.load_state_dict(restored, strict=False)
    model.save_pretrained(into)
    PreTrainedTokenizerFast.from_pretrained(folder).save_pretrained(into)
    return into


def back(name: str, numbers: torch.Tensor, config: Any, architecture: str) -> torch.Tensor:
    """`converted` undone."""
    if architecture in TURNED and (".attn_q." in name or ".attn_k." in name):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        return numbers.view(heads, len(numbers) // heads // 2, 2, -1).transpose(1, 2).reshape(numbers.shape)
    if architecture in PLUS_ONE and name.endswith("norm.weight"):
        return numbers - 1
    return numbers[None] if "ffn_gate_inp_shexp" in name else numbers
