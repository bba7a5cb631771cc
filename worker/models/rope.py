"""Rotary frequencies that would change with the longest sequence of a step, held still.

LongRoPE has two sets: for up to the length a model was first trained on, and for beyond. transformers takes one of them
in each forward pass, by its largest position: a neighbour's long prompt, or a later chunk of one's own, would change an
answer. So the set is chosen once, by the longest sequence that is served.
"""

import logging
from typing import Any

import torch

logger = logging.getLogger(__name__)

LONGROPE, HELD = "longrope", "held"


@torch.inference_mode()
def hold_frequencies(model: Any, max_model_len: int) -> None:
    """For sequences of up to `max_model_len` tokens."""
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, dict):  # a set for each type of layer
            for layer_type in [name for name, own in kind.items() if own == LONGROPE]:
                turn(module, max_model_len, layer_type)
                kind[layer_type] = HELD
        elif kind == LONGROPE:
            turn(module, max_model_len)
            module.rope_type = HELD
            logger.info("rotary frequencies are those for sequences of up to %d tokens", max_model_len)


def turn(rotary: Any, max_model_len: int, *layer_type: str) -> None:
    """Let it see the last position there will be, upon which it takes the frequencies for that."""
    device = next(rotary.buffers()).device
    rotary(torch.zeros(1, device=device), torch.tensor([[max_model_len - 1]], device=device), *layer_type)
