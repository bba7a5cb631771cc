"""A product that makes packed weights dense: slow, and right for every form on every device."""

import torch
from torch.nn import functional as F

from worker.kernels.packed.weights import SCALE_BLOCK, Weights

CHUNK_NUMBERS = 1 << 22  # of dense weights at a time


class ByChunks:
    """Makes some rows dense at a time, in each product."""

    def __init__(self, weights: Weights, bias: torch.Tensor | None) -> None:
        self.weights = weights
        self.bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        step = max(SCALE_BLOCK, CHUNK_NUMBERS // self.weights.num_in // SCALE_BLOCK * SCALE_BLOCK)
        starts = range(0, self.weights.num_out, step)
        output = torch.cat([F.linear(inputs, self.weights.dense(start, start + step)) for start in starts], dim=-1)
        return output if self.bias is None else output.add_(self.bias)
