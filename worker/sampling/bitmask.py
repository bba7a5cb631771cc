"""Masks with one bit per token, and their effect on logits."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray


def bitmask_words(vocab_size: int) -> int:
    """How many int32 words hold one bit per token."""
    return (vocab_size + 31) // 32


def apply_bitmask(logits: torch.Tensor, bitmask: torch.Tensor) -> None:
    """Set logits [B, V] to -inf, in place, where the bit in bitmask [B, ceil(V / 32)] (same device) is 0."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:  # five times as fast as torch
        added = byte_addends().take(bitmask.numpy().view(np.uint8), axis=0).reshape(len(bitmask), -1)
        values = logits.numpy()
        np.add(values, added[:, : values.shape[1]], out=values)
        return
    places = torch.arange(8, dtype=torch.uint8, device=logits.device)  # bytes are a third faster than words
    is_forbidden = ((bitmask.view(torch.uint8).unsqueeze(-1) >> places) & 1).flatten(1)[:, : logits.shape[1]] == 0
    logits.masked_fill_(is_forbidden, float("-inf"))


@cache
def byte_addends() -> NDArray[np.float32]:
    """Addends [256, 8] to the logits of eight tokens, by the byte of the mask."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.where(bits == 1, np.float32(0), np.float32("-inf"))
