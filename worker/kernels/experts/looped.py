"""Experts one after the other: on any device, for few tokens as for many. It waits for the choice of experts."""

from collections.abc import Iterator

import torch

from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.linear import Linear
from worker.kernels.packed.linear import packed_linear
from worker.kernels.packed.weights import Weights


class LoopedExperts:
    """One product for each expert that any token has chosen."""

    def __init__(self, layer: ExpertLayer) -> None:
        self.up = list(linears(layer.up, layer.up_bias))
        self.down = list(linears(layer.down, layer.down_bias))
        self.activate = layer.activate

    @property
    def linears(self) -> list[Linear]:
        return self.up + self.down

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """hidden [T, width], chosen [T, k] -> outputs of the experts [T, k, width]."""
        outputs = hidden.new_empty(*chosen.shape, hidden.shape[1])
        for expert in torch.unique(chosen).tolist():
            token, place = torch.where(chosen == expert)
            outputs[token, place] = self.down[expert](self.activate(self.up[expert](hidden[token])))
        return outputs


def linears(weights: Weights, bias: torch.Tensor | None) -> Iterator[Linear]:
    """The product of each of several matrices."""
    for expert in range(len(weights.codes)):
        yield packed_linear(weights.matrix(expert), None if bias is None else bias[expert])
