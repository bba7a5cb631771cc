"""Numbers of a model's configuration, of which not every family has every one, or one for all layers."""

from typing import Any

LENGTH_NAMES = ("max_position_embeddings", "max_seq_len", "context_length")
USUAL_LENGTH = 2048  # tokens: what most models were trained on that name no longest sequence (state-space, ALiBi)


def largest(config: Any, name: str) -> int | None:
    """Of all layers, where they differ; None where the family has no such number."""
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    values = [value for layer in layers if isinstance(value := getattr(layer, name, None), int)]
    return max(values, default=None)


def longest_sequence(config: Any) -> int | None:
    """Prompt and completion, tokens, as the model's authors say it; None where they do not."""
    return next((length for name in LENGTH_NAMES if (length := largest(config, name)) is not None), None)
