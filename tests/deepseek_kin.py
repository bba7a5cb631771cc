"""Checkpoints, as released, of models that have taken over DeepSeek's form: GLM 5, Kimi K2 and K2 Thinking."""

import base64
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.deepseek import TEXT, V3, V32, save_deepseek, save_unpacked

# GLM 5 and, with `index_topk_freq` 4, GLM 5.2, where three of four layers attend to the keys that one before them chose
GLM5: dict[str, Any] = {
    name: value for name, value in V32.items() if name not in ("rope_scaling", "rope_theta", "torch_dtype")
} | {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "dtype": "bfloat16",
    "eos_token_id": [1, 2],
    "head_dim": 8,
    "indexer_rope_interleave": True,
    "model_type": "glm_moe_dsa",
    "n_group": 1,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "qk_head_dim": 24,
    "quantization_config": V3["quantization_config"],
    "rms_norm_eps": 1e-05,
    "rope_interleave": True,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "topk_group": 1,
    "transformers_version": "5.0.2.dev0",
}
INT4: dict[str, Any] = {  # of K2 Thinking: routed experts only
    "config_groups": {
        "group_0": {
            "input_activations": None,
            "output_activations": None,
            "targets": ["Linear"],
            "weights": {
                "actorder": None, "block_structure": None, "dynamic": False, "group_size": 32, "num_bits": 4,
                "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": True, "type": "int",
            },
        }
    },
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
}  # fmt: skip
K2: dict[str, Any] = V3 | {
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModel": "modeling_deepseek.DeepseekV3Model",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    },
    "max_position_embeddings": 131072,
    "model_type": "kimi_k2",
    "moe_intermediate_size": 64,
    "n_group": 1,
    "rope_scaling": V3["rope_scaling"] | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0},
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.827,
    "topk_group": 1,
    "vocab_size": 576,
}
RESERVED = 256  # ids after those of the file, most of them without a name
NAMED = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>", 10: "<|im_system|>",
         17: "<|im_middle|>", 22: "<think>", 23: "</think>", 254: "[UNK]", 255: "[PAD]"}  # fmt: skip
VISIBLE = frozenset({"<think>", "</think>"})  # that are no special tokens
PATTERNS = (
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)
CODE = """import tiktoken
from transformers import PreTrainedTokenizer

raise RuntimeError("this code is not to be run")


class TikTokenTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "tiktoken.model"}
    pat_str = "|".join([%s])
"""
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_' + m.role + '|>' + m.role + '<|im_middle|>' + m.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)


def save_kimi(folder: Path, *, packed: bool = True, **changes: Any) -> Path:
    """Kimi K2 as released: DeepSeek's weights in fp8 blocks, and a tokenizer in tiktoken's form with its own code."""
    save_deepseek(folder, packed=packed, mtp="", version=K2, **changes)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    ranks = trained_ranks(K2["vocab_size"] - RESERVED)
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (folder / "tiktoken.model").write_text("\n".join(lines) + "\n")
    (folder / "tokenization_kimi.py").write_text(CODE % ", ".join(f'r"""{piece}"""' for piece in PATTERNS))
    named = {
        str(len(ranks) + at): {"content": token, "lstrip": False, "normalized": False, "special": token not in VISIBLE}
        for at, token in NAMED.items()
    }
    own = {
        "added_tokens_decoder": named, "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
        "bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]", "unk_token": "[UNK]",
        "additional_special_tokens": [token for token in NAMED.values() if token not in VISIBLE],
        "model_max_length": 1000000000000000019884624838656, "tokenizer_class": "TikTokenTokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def save_thinking(folder: Path, twin: Path) -> Path:
    """Kimi K2 Thinking as released: routed experts in int4. `twin`: the same numbers unpacked."""
    save_kimi(folder, packed=False)
    save_unpacked(folder, twin)
    unpacked = load_file(twin / "model.safetensors")
    for path in folder.glob("*.safetensors"):
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in load_file(path).items():
            if ".mlp.experts." not in name:
                tensors[name] = tensor
                continue
            parts, unpacked[name] = in_int4(name.removesuffix(".weight"), tensor.float())
            tensors |= parts
        save_file(tensors, path, metadata={"format": "pt"})
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {name: path.name for path in sorted(folder.glob("*.safetensors")) for name in load_file(path)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": INT4}))
    save_file(unpacked, twin / "model.safetensors", metadata={"format": "pt"})
    return folder


def in_int4(module: str, weight: torch.Tensor, group: int = 32) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The tensors of a packed matrix [out, in], and the numbers that they stand for."""
    groups = weight.unflatten(1, (-1, group))
    scales = (groups.abs().amax(2) / 7).clamp(min=1e-5).bfloat16()
    codes = (groups / scales.float()[..., None]).round().clamp(-8, 7)
    shifted = (codes.flatten(1).long() + 8).unflatten(1, (-1, 8))
    words = (shifted << torch.arange(0, 32, 4)).sum(2).to(torch.int32)
    shape = torch.tensor(weight.shape, dtype=torch.int32)
    parts = {"weight_packed": words, "weight_scale": scales, "weight_shape": shape}
    numbers = (codes * scales.float()[..., None]).flatten(1)
    return {f"{module}.{name}": tensor for name, tensor in parts.items()}, numbers


def trained_ranks(num_tokens: int) -> dict[bytes, int]:
    """Bytes first, then what was joined, in that order: also across places where an expression cuts."""
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.train_from_iterator([*TEXT * 4, *["the你好the", "12345", "then there", "they're"] * 9], trainer)
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda each: each[1])
    return {bytes(letters[letter] for letter in token): rank for token, rank in vocab}
