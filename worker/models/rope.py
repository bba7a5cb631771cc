"""Keeps rotary frequencies from changing with the longest sequence of a step.

LongRoPE has two sets of frequencies: one up to the length that a model was first trained on, one beyond it.
transformers chooses the set in each forward pass by its largest position, so a long prompt in the same batch, or a
later chunk of the same prompt, would change an answer. Here it is chosen once, by the longest sequence that is served.
"""

import logging
from typing import Any

import torch

from worker.models.transformers_seams import longrope_layers, stop_switching

logger = logging.getLogger(__name__)


@torch.inference_mode()
def fix_frequencies(model: Any, max_model_len: int) -> None:
    """Use the frequencies for sequences of up to `max_model_len` tokens from now on."""
    for module in model.modules():
        for layer_type in longrope_layers(module):
            select_frequencies(module, max_model_len, layer_type)
            stop_switching(module, layer_type)
            logger.info("rotary frequencies are those for sequences of up to %d tokens", max_model_len)


def select_frequencies(rotary: Any, max_model_len: int, layer_type: str | None) -> None:
    """Run the module once at the last position so that it selects its frequencies for that length."""
    device = next(rotary.buffers()).device
    position = torch.tensor([[max_model_len - 1]], device=device)
    rotary(torch.zeros(1, device=device), position, *([] if layer_type is None else [layer_type]))
