"""A GGUF file's metadata as transformers' configuration."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from transformers import AutoConfig, GenerationConfig

from common.model.gguf_header import GgufHeader
from worker.models.gguf.families import FAMILIES, MIXTRAL, Family, Metadata, Values

DEFAULT_THETA = 10_000.0  # of llama.cpp, where a file says none
GLOBAL, LOCAL = "full_attention", "sliding_attention"
CONTROL = 3  # the type of special tokens
FILE_TYPES: Mapping[int, str] = MappingProxyType(  # general.file_type, llama.cpp's mixture of block types
    {
        0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
        12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 21: "Q2_K_S",
        25: "IQ4_NL", 30: "IQ4_XS", 32: "BF16", 38: "MXFP4_MOE",
    }
)  # fmt: skip
END_IDS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of text, turn and message
END_TOKENS = frozenset(  # that end a turn, also where the metadata does not say so
    {"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>"}
)


def family_of(header: GgufHeader) -> Family:
    """Raises ValueError for an architecture that is not read."""
    name = header.architecture
    if name not in FAMILIES:
        raise ValueError(
            f"{header.path.name} is of architecture {name!r}, and GGUF files are read of {', '.join(FAMILIES)}. "
            "Use the model's safetensors."
        )
    is_sparse = name == "llama" and header.metadata.get("llama.expert_count", 0) > 0
    return MIXTRAL if is_sparse else FAMILIES[name]


def own_metadata(header: GgufHeader) -> Metadata:
    prefix = f"{header.architecture}."
    return {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}


def configuration(header: GgufHeader, shapes: Mapping[str, tuple[int, ...]], factors: Mapping[str, list[float]]) -> Any:
    """transformers' configuration. `shapes` of all tensors; `factors`: those that are factors of rotary frequencies."""
    family, metadata = family_of(header), own_metadata(header)
    values: Values = {name: metadata[key] for key, name in family.fields.items() if key in metadata}
    values["vocab_size"] = shapes["token_embd.weight"][0]
    values["tie_word_embeddings"] = "output.weight" not in shapes
    for name in ("bos", "eos"):
        values[f"{name}_token_id"] = header.metadata.get(f"tokenizer.ggml.{name}_token_id")
    values["pad_token_id"] = header.metadata.get("tokenizer.ggml.padding_token_id")
    width = int(metadata.get("attention.key_length") or values["hidden_size"] // values["num_attention_heads"])
    if family.keeps_head_dim:
        values["head_dim"] = width
    values |= {**family.fixed, **family.more(metadata)}
    values["rope_parameters"] = rope_parameters(family, metadata, int(values.get("head_dim", width)), factors)
    values["sliding_window"] = values.get("sliding_window") or None
    values["architectures"] = None
    return AutoConfig.for_model(family.model_type, **values)


def rope_parameters(
    family: Family, metadata: Metadata, width: int, factors: Mapping[str, list[float]]
) -> dict[str, Any]:
    """transformers' rope_parameters; `width` is that of a head."""
    rope: Values = {"rope_type": "default", "rope_theta": metadata.get("rope.freq_base", DEFAULT_THETA)}
    kind, length = metadata.get("rope.scaling.type", "none"), metadata.get("context_length", 0)
    if factors:
        short = factors.get("rope_factors_short.weight") or factors.get("rope_freqs.weight")
        rope |= {
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": factors.get("rope_factors_long.weight", short),
            "attention_factor": metadata.get("rope.scaling.attn_factor", 1.0),
            "original_max_position_embeddings": metadata.get("rope.scaling.original_context_length", length),
        }
    elif kind in ("linear", "yarn") and "rope.scaling.factor" in metadata:
        rope |= {"rope_type": kind, "factor": metadata["rope.scaling.factor"]}
        if kind == "yarn":
            rope["original_max_position_embeddings"] = metadata["rope.scaling.original_context_length"]
    rotated = metadata.get("rope.dimension_count", width)
    if family.model_type == "phi3" and rotated != width:
        rope["partial_rotary_factor"] = rotated / width
    if family.model_type == "gemma3_text":
        local = metadata.get("rope.freq_base_swa", DEFAULT_THETA)
        return {GLOBAL: rope, LOCAL: {"rope_type": "default", "rope_theta": local}}
    return rope


def generation_config(header: GgufHeader) -> GenerationConfig:
    """With every token that ends an answer."""
    metadata, tokens = header.metadata, header.metadata["tokenizer.ggml.tokens"]
    ends = {metadata[f"tokenizer.ggml.{name}"] for name in END_IDS if f"tokenizer.ggml.{name}" in metadata}
    types = metadata.get("tokenizer.ggml.token_type", [])
    ends |= {index for index, kind in enumerate(types) if kind == CONTROL and tokens[index] in END_TOKENS}
    return GenerationConfig(eos_token_id=sorted(ends), bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"))
