"""Config fields that some families lack and others set per layer."""

from typing import Any

from worker.models.transformers_seams import layer_configs

LENGTH_FIELDS = ("max_position_embeddings", "max_seq_len", "context_length")
ENCODERS = ("Model", "ForMaskedLM", "ForSequenceClassification")  # endings of architectures
GENERATES = "LMHeadModel"  # an ending of some that generate, as GPT2LMHeadModel
TOP_K_FIELDS = ("num_experts_per_tok", "moe_topk", "top_k_experts", "num_experts_per_token")
USUAL_LENGTH = 2048  # tokens; for families whose config names no longest sequence (state-space models, ALiBi)


def largest(config: Any, name: str) -> int | None:
    """The largest value that any layer has for this field; None where the family has no such field."""
    values = [value for layer in layer_configs(config) if isinstance(value := getattr(layer, name, None), int)]
    return max(values, default=None)


def longest_sequence(config: Any) -> int | None:
    """The most tokens of prompt and completion that the config names; None where it names none."""
    return next((length for name in LENGTH_FIELDS if (length := largest(config, name)) is not None), None)


def experts_per_token(config: Any) -> int:
    """How many routed experts a token takes, in the layer where it takes most; 1 where the config names no number."""
    text = config.get_text_config()
    return next((found for name in TOP_K_FIELDS if (found := largest(text, name))), 1)


def is_encoder(config: Any) -> bool:
    """Whether the config names an architecture that makes states or scores, and no text."""
    return any(name.endswith(ENCODERS) and not name.endswith(GENERATES) for name in config.architectures or ())
