"""Experts one after the other: on any device, for few tokens as for many. It waits for the choice of experts."""

from collections.abc import Iterator

import torch

from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.linear import Linear, PlainLinear
from worker.kernels.packed.linear import packed_linear
from worker.kernels.packed.weights import Weights


class LoopedExperts:
    """One product for each expert that any token has chosen. Dense weights are not copied."""

    def __init__(self, layer: ExpertLayer) -> None:
        self.up = list(linears(layer.up, layer.up_bias))
        self.down = list(linears(layer.down, layer.down_bias))
        self.activate = layer.activate

    @property
    def linears(self) -> list[Linear]:
        return self.up + self.down

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        """See Experts."""
        sums = torch.zeros(out.shape, dtype=torch.float32, device=out.device)
        for expert in torch.unique(chosen).tolist():
            token, place = torch.where(chosen == expert)
            outputs = self.down[expert](self.activate(self.up[expert](hidden[token])))
            sums.index_add_(0, token, outputs.float() * weights[token, place, None])
        out.copy_(sums)


def linears(weights: Weights, bias: torch.Tensor | None) -> Iterator[Linear]:
    """The product of each of several matrices."""
    for expert in range(len(weights.codes)):
        own = None if bias is None else bias[expert]
        matrix = weights.matrix(expert)
        yield PlainLinear(matrix.codes, own) if matrix.kind == "dense" else packed_linear(matrix, own)
