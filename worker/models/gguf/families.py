"""The architectures of GGUF files that are read: what their metadata and tensors are called in transformers.

llama.cpp's converters turn some weights: rows of queries and keys where llama.cpp rotates neighbouring columns of a
head, and the norms of Gemma, which it stores plus one. A family says so, and worker/models/gguf/tensors.py undoes it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Values = dict[str, Any]
Metadata = Mapping[str, Any]  # of one architecture, without its prefix

# Metadata key -> field of the configuration.
FIELDS = MappingProxyType(
    {
        "context_length": "max_position_embeddings",
        "block_count": "num_hidden_layers",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    }
)
SLIDING = MappingProxyType({"attention.sliding_window": "sliding_window"})
EXPERTS = MappingProxyType(
    {
        "expert_count": "num_experts",
        "expert_used_count": "num_experts_per_tok",
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    }
)
SOFTCAPS = MappingProxyType(
    {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
)

# Name of a tensor outside of the layers, and inside of a layer (blk.N.), without .weight or .bias.
OUTER = MappingProxyType({"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"})
LAYER = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
SPARSE = MappingProxyType({**LAYER, "ffn_gate_inp": "mlp.gate"})
SHARED_EXPERT = MappingProxyType(
    {
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
        "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
        "ffn_up_shexp": "mlp.shared_expert.up_proj",
        "ffn_down_shexp": "mlp.shared_expert.down_proj",
    }
)
FOUR_NORMS = MappingProxyType(
    {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
)


def nothing_more(metadata: Metadata) -> Values:
    return {}


class Family(NamedTuple):
    """How one architecture's files are read."""

    model_type: str
    layer: Mapping[str, str] = LAYER
    fields: Mapping[str, str] = FIELDS
    fixed: Mapping[str, Any] = MappingProxyType({})  # what no file says
    more: Callable[[Metadata], Values] = nothing_more  # what must be computed
    rotates_neighbours: bool = False
    norms_plus_one: bool = False
    keeps_head_dim: bool = True  # in the configuration


def llama_like(metadata: Metadata) -> Values:
    """Older files of this architecture say the width of a head only as that of its rotary part."""
    width = metadata.get("attention.key_length") or metadata.get("rope.dimension_count")
    return {"head_dim": width} if width else {}


def mixtral(metadata: Metadata) -> Values:
    return llama_like(metadata) | {
        "num_local_experts": metadata["expert_count"],
        "num_experts_per_tok": metadata["expert_used_count"],
    }


def gemma2(metadata: Metadata) -> Values:
    """Queries are scaled by a head's width, but in the 27B model by hidden size / heads, which no metadata says."""
    is_27b = metadata["block_count"] == 46
    return {"query_pre_attn_scalar": own_scale(metadata) if is_27b else metadata["attention.key_length"]}


def gemma3(metadata: Metadata) -> Values:
    is_27b = metadata["block_count"] == 62
    return {"query_pre_attn_scalar": own_scale(metadata) if is_27b else metadata["attention.key_length"]}


def own_scale(metadata: Metadata) -> int:
    return int(metadata["embedding_length"] // metadata["attention.head_count"])


def granite(metadata: Metadata) -> Values:
    return llama_like(metadata) | {
        "attention_multiplier": metadata["attention.scale"],
        "embedding_multiplier": metadata["embedding_scale"],
        "residual_multiplier": metadata["residual_scale"],
        "logits_scaling": metadata["logit_scale"],
    }


STARCODER2 = MappingProxyType({**LAYER, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"})
PHI3 = MappingProxyType({**LAYER, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"})
OLMO2 = MappingProxyType(
    {
        **LAYER,
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
)
STARCODER2_FIELDS = MappingProxyType({**FIELDS, **SLIDING, "attention.layer_norm_epsilon": "norm_epsilon"})

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family("llama", more=llama_like, rotates_neighbours=True),
        "mistral": Family("llama", more=llama_like, rotates_neighbours=True),
        "qwen2": Family("qwen2", keeps_head_dim=False),
        "qwen3": Family("qwen3"),
        "qwen2moe": Family("qwen2_moe", {**SPARSE, **SHARED_EXPERT}, {**FIELDS, **EXPERTS}, keeps_head_dim=False),
        "qwen3moe": Family("qwen3_moe", SPARSE, {**FIELDS, **EXPERTS}, {"norm_topk_prob": True}),
        "gemma": Family("gemma", norms_plus_one=True),
        "gemma2": Family(
            "gemma2", {**LAYER, **FOUR_NORMS}, {**FIELDS, **SLIDING, **SOFTCAPS}, more=gemma2, norms_plus_one=True
        ),
        "gemma3": Family(
            "gemma3_text", {**LAYER, **FOUR_NORMS}, {**FIELDS, **SLIDING, **SOFTCAPS}, more=gemma3, norms_plus_one=True
        ),
        "phi3": Family("phi3", PHI3, {**FIELDS, **SLIDING}, keeps_head_dim=False),
        "starcoder2": Family("starcoder2", STARCODER2, STARCODER2_FIELDS, keeps_head_dim=False),
        "granite": Family("granite", more=granite, rotates_neighbours=True, keeps_head_dim=False),
        "olmo2": Family("olmo2", OLMO2, keeps_head_dim=False),
        "smollm3": Family("smollm3", rotates_neighbours=True, keeps_head_dim=False),
    }
)
MIXTRAL = Family("mixtral", SPARSE, more=mixtral, rotates_neighbours=True)  # its files say llama, with experts
