"""Checkpoints of DeepSeek's form as released (V3.2; V3, R1 and V3.1), with random weights and any sizes.

Keys of config.json, names and types of tensors, fp8 blocks with `weight_scale_inv`, the layer that predicts one token
more (MTP), several files with an index, and a tokenizer with the released special tokens at both ends of its ids.

`python -m tests.deepseek FOLDER hidden_size=2048 num_hidden_layers=8` writes one to be served by hand.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

Tensors = dict[str, torch.Tensor]
Kind = Literal["matrix", "plain", "norm", "bias", "float"]

TEXT = ("the quick brown fox jumps over the lazy dog", "a stream of tokens, one at a time", "äöü ß 你好 🙂 12345")
BLOCK = 128
EMBEDDING, HEAD = 1, 2  # seeds of what the MTP layer shares with the model
LARGEST_E4M3 = 448.0
FIRST_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>")  # ids 0, 1, 2
LAST_TOKENS = ("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "｜DSML｜")  # the last ids
PIECES = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+",
)
V3: dict[str, Any] = {  # the released keys; numbers of layers, heads and experts, and widths, are small
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 144,
    "kv_lora_rank": 32,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 48,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.2",
    "use_cache": True,
    "v_head_dim": 16,
    "vocab_size": 320,
}
V32: dict[str, Any] = V3 | {
    "architectures": ["DeepseekV32ForCausalLM"],
    "index_head_dim": 16,
    "index_n_heads": 32,  # with few, many keys have the score 0, and which of them are chosen is arbitrary
    "index_topk": 32,
    "model_type": "deepseek_v32",
    "quantization_config": V3["quantization_config"] | {"scale_fmt": "ue8m0"},  # scales are powers of two
}
RELEASED_WIDTHS: dict[str, Any] = {  # a layer of the real model, but for its 256 experts
    "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_attention_heads": 128,
    "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "index_n_heads": 64,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "index_head_dim": 128, "index_topk": 2048, "num_experts_per_tok": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A tensor of a checkpoint, before it has numbers."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    gain: float = 1.0  # of a matrix: the standard deviation of its results for inputs of 1
    seed: int | None = None  # tensors of one shape and seed are the same; None: like no other


def save_deepseek(
    folder: Path,
    *,
    packed: bool = True,
    mtp: Literal["", "random", "agreeing"] = "random",
    layer_gain: float = 1.0,
    seed: int = 0,
    version: Mapping[str, Any] = V32,
    **changes: Any,
) -> Path:
    """Write config, weights and tokenizer. `version`: V32 or V3; `changes`: of its config.json.

    `packed`: in fp8 as released, else all in bf16. `mtp`: "agreeing" is a layer that guesses what the model says next
    where layers change little (`layer_gain` 0.04: four guesses of five, 0.15: one of three); "random" one that seldom
    does; "" leaves it out.
    """
    config = {**version, **changes, "num_nextn_predict_layers": int(bool(mtp))}
    if not packed:
        del config["quantization_config"]
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    files = [list(plan) for plan in planned(config, layer_gain, has_mtp=bool(mtp))]
    weight_map: dict[str, str] = {}
    for number, file in enumerate(files, start=1):
        tensors: Tensors = {}
        for plan in file:
            tensors |= stored(plan.name, made(plan, generator, mtp), plan.kind, config)
        name = f"model-{number:05d}-of-{len(files):06d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"_from_model_config": True, "bos_token_id": 0, "do_sample": True, "eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(generation | {"temperature": 1.0, "top_p": 0.95}))
    save_tokenizer(folder, config["vocab_size"])
    return folder


def save_unpacked(packed: Path, folder: Path, *, with_mtp: bool = False) -> Path:
    """Write the same model in float32: what transformers reads without code of ours.

    `with_mtp`: the layer that predicts one token more is one of its ordinary layers, the last; else it is left out.
    """
    config = json.loads((packed / "config.json").read_text())
    tensors = numbers(packed)
    for name in ("quantization_config", "dtype"):
        config.pop(name, None)
    mtp = f"model.layers.{config['num_hidden_layers']}."
    if not with_mtp:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(mtp)}
    changes = {"torch_dtype": "float32", "num_nextn_predict_layers": 0}
    changes |= {"num_hidden_layers": config["num_hidden_layers"] + with_mtp}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(folder, config["vocab_size"])
    return folder


def numbers(folder: Path) -> Tensors:
    """All weights of a checkpoint in float32, under their names, the MTP layer's too."""
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith("_scale_inv")}
    return {name: times_scales(tensor, scales.get(f"{name}_scale_inv")) for name, tensor in tensors.items()}


def times_scales(tensor: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
    """A matrix of fp8 codes [out, in] and a scale for each block, as float32; other tensors have no scales."""
    if scales is None:
        return tensor.float()
    spread = scales.repeat_interleave(BLOCK, 0)[: tensor.shape[0]].repeat_interleave(BLOCK, 1)[:, : tensor.shape[1]]
    return tensor.float() * spread


def planned(config: Mapping[str, Any], layer_gain: float, *, has_mtp: bool) -> Iterator[Iterator[Planned]]:
    """The tensors of each file: one per layer, and one for what is around them."""
    vocab, width = config["vocab_size"], config["hidden_size"]
    layers = range(config["num_hidden_layers"] + has_mtp)
    for number in layers:
        yield layer(config, number, layer_gain)
    yield iter(
        [
            Planned("model.embed_tokens.weight", (vocab, width), "plain", width**0.5, EMBEDDING),
            Planned("model.norm.weight", (width,), "norm"),
            Planned("lm_head.weight", (vocab, width), "plain", 1.5, HEAD),
        ]
    )


def layer(config: Mapping[str, Any], number: int, gain: float) -> Iterator[Planned]:
    """One decoder layer; the one after the last has what MTP adds."""
    width, prefix = config["hidden_size"], f"model.layers.{number}"
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield Planned(f"{prefix}.{name}.weight", (width,), "norm")
    chooses = "index_topk" in config and max(number - 1, 0) % config.get("index_topk_freq", 1) == 0
    yield from attention(config, f"{prefix}.self_attn", gain, chooses=chooses)
    if number < config["first_k_dense_replace"]:
        yield from mlp(f"{prefix}.mlp", width, config["intermediate_size"], gain)
    else:
        yield from experts(config, f"{prefix}.mlp", gain)
    if number == config["num_hidden_layers"]:
        for name in ("enorm", "hnorm", "shared_head.norm"):
            yield Planned(f"{prefix}.{name}.weight", (width,), "norm")
        yield Planned(f"{prefix}.eh_proj.weight", (width, 2 * width), "plain")
        yield Planned(f"{prefix}.embed_tokens.weight", (config["vocab_size"], width), "plain", width**0.5, EMBEDDING)
        yield Planned(f"{prefix}.shared_head.head.weight", (config["vocab_size"], width), "plain", 1.5, HEAD)


def attention(config: Mapping[str, Any], prefix: str, gain: float, *, chooses: bool) -> Iterator[Planned]:
    """Latent attention; where it `chooses` the keys, with its indexer."""
    width, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    q_rank = config["q_lora_rank"]
    yield Planned(f"{prefix}.q_a_proj.weight", (q_rank, width), "matrix")
    yield Planned(f"{prefix}.q_a_layernorm.weight", (q_rank,), "norm")
    yield Planned(f"{prefix}.q_b_proj.weight", (heads * (nope + rope), q_rank), "matrix", 1.5)
    yield Planned(f"{prefix}.kv_a_proj_with_mqa.weight", (rank + rope, width), "matrix", 1.5)
    yield Planned(f"{prefix}.kv_a_layernorm.weight", (rank,), "norm")
    yield Planned(f"{prefix}.kv_b_proj.weight", (heads * (nope + value), rank), "matrix", 1.5)
    yield Planned(f"{prefix}.o_proj.weight", (width, heads * value), "matrix", gain)
    if chooses:
        index_heads, index_dim = config["index_n_heads"], config["index_head_dim"]
        yield Planned(f"{prefix}.indexer.wq_b.weight", (index_heads * index_dim, q_rank), "matrix")
        yield Planned(f"{prefix}.indexer.wk.weight", (index_dim, width), "matrix")
        yield Planned(f"{prefix}.indexer.k_norm.weight", (index_dim,), "float", 1.0)
        yield Planned(f"{prefix}.indexer.k_norm.bias", (index_dim,), "bias")
        yield Planned(f"{prefix}.indexer.weights_proj.weight", (index_heads, width), "plain")


def mlp(prefix: str, width: int, inner: int, gain: float) -> Iterator[Planned]:
    yield Planned(f"{prefix}.gate_proj.weight", (inner, width), "matrix")
    yield Planned(f"{prefix}.up_proj.weight", (inner, width), "matrix")
    yield Planned(f"{prefix}.down_proj.weight", (width, inner), "matrix", gain)


def experts(config: Mapping[str, Any], prefix: str, gain: float) -> Iterator[Planned]:
    width, inner, num = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
    yield Planned(f"{prefix}.gate.weight", (num, width), "plain")
    yield Planned(f"{prefix}.gate.e_score_correction_bias", (num,), "bias")
    for number in range(num):
        yield from mlp(f"{prefix}.experts.{number}", width, inner, gain)
    yield from mlp(f"{prefix}.shared_experts", width, inner * config["n_shared_experts"], gain)


def made(plan: Planned, generator: torch.Generator, mtp: str) -> torch.Tensor:
    """Random numbers in float32. In an "agreeing" MTP layer, the product that joins both inputs takes the token."""
    if plan.name.endswith("eh_proj.weight") and mtp == "agreeing":
        return torch.eye(*plan.shape)
    if mtp == "agreeing" and (plan.name.endswith("norm.weight") and plan.kind == "norm"):
        return torch.ones(plan.shape)
    if plan.seed is not None:
        generator = torch.Generator().manual_seed(plan.seed)
    random = torch.randn(plan.shape, generator=generator)
    if plan.kind in ("norm", "float"):
        return 1 + 0.2 * random
    return 0.1 * random if plan.kind == "bias" else random * plan.gain * plan.shape[-1] ** -0.5


def stored(name: str, tensor: torch.Tensor, kind: Kind, config: Mapping[str, Any]) -> Tensors:
    """The tensor as files have it, and its scales if it is packed. Numbers in float32 are ones that bf16 has too."""
    packing = config.get("quantization_config")
    if kind in ("float", "bias"):
        return {name: tensor.bfloat16().float()}
    if kind != "matrix" or packing is None:
        return {name: tensor.bfloat16()}
    codes, scales = in_blocks(tensor, is_power="scale_fmt" in packing)
    return {name: codes, f"{name}_scale_inv": scales}


def in_blocks(weight: torch.Tensor, *, is_power: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """[out, in] as e4m3 codes and float32 scales [blocks of out, blocks of in]; the last blocks may be smaller."""
    tall, wide = (-(-size // BLOCK) for size in weight.shape)
    whole = weight.new_zeros(tall * BLOCK, wide * BLOCK)
    whole[: weight.shape[0], : weight.shape[1]] = weight
    blocks = whole.view(tall, BLOCK, wide, BLOCK)
    scales = blocks.abs().amax((1, 3)).clamp(min=1e-4) / LARGEST_E4M3
    if is_power:
        scales = torch.exp2(scales.log2().ceil())
    codes = (blocks / scales[:, None, :, None]).view_as(whole)[: weight.shape[0], : weight.shape[1]]
    return codes.to(torch.float8_e4m3fn).contiguous(), scales


def save_tokenizer(folder: Path, vocab_size: int) -> None:
    """Byte-level BPE, cut by three expressions; the class that its configuration names is not what reads it."""
    tokenizer = Tokenizer(models.BPE())
    cuts = [pre_tokenizers.Split(Regex(piece), "isolated") for piece in PIECES]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(LAST_TOKENS),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in FIRST_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in LAST_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {
        name: {"__type": "AddedToken", "content": token, "lstrip": False, "normalized": True, "rstrip": False}
        for name, token in zip(("bos_token", "eos_token", "pad_token"), FIRST_TOKENS, strict=True)
    }
    own: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
    }
    own |= {"model_max_length": 131072, "tokenizer_class": "LlamaTokenizerFast", "unk_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(own | marks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("changes", nargs="*", metavar="key=value", help="of config.json, or of save_deepseek()")
    parser.add_argument("--released-widths", action="store_true", help="a layer of the real size, but for its experts")
    given = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (change.partition("=") for change in given.changes)}
    print(save_deepseek(given.folder, **(RELEASED_WIDTHS if given.released_widths else {}) | changes))


if __name__ == "__main__":
    main()
