"""Experts of a layer that stand on the GPU beside those in host memory: the ones that are used most."""

import torch

from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.form import plain_weights
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.experts.streamed import plain_bias, without_copy
from worker.kernels.packed.weights import Weights


class CardExperts:
    """Some of a layer's experts, in places of the GPU's memory that keep their addresses."""

    def __init__(self, source: CpuExperts, ids: torch.Tensor, device: torch.device, *, pins: bool) -> None:
        """`ids`: int64 [n] in host memory, different ones."""
        self.source = source
        self.device = device
        self.ids = ids.clone()  # of the expert in each place
        num_experts = int(source.c_layer.num_experts)
        places, shares = torch.zeros(num_experts, dtype=torch.long), torch.zeros(num_experts)
        places[ids], shares[ids] = torch.arange(len(ids)), 1.0
        self.places = places.to(device)  # of each of the layer's experts, 0 for those that have none
        self.shares = shares.to(device)  # 1 for those that have one, 0 for others
        self.is_elsewhere = shares.to(torch.uint8)  # the same for the CPU, which leaves them out
        if pins:
            self.is_elsewhere = self.is_elsewhere.pin_memory()
        self.layer = self._room(len(ids))
        for place, expert in enumerate(ids.tolist()):
            self._fill(place, expert)
        self.experts = without_copy(self.layer)

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        """The sum over the choices that are here. Others are computed by the first expert, with weight 0."""
        self.experts(hidden, self.places[chosen], weights * self.shares[chosen], out)

    @property
    def num_bytes(self) -> int:
        return self.layer.up.num_bytes + self.layer.down.num_bytes

    def replace(self, place: int, expert: int) -> None:
        """Put another expert there, for all that the device is told from now on. No work of the CPU may be open."""
        self._fill(place, expert)
        self.shares[self.ids[place]] = 0.0
        self.places[self.ids[place]] = 0
        self.places[expert] = place
        self.shares[expert] = 1.0
        self.is_elsewhere[self.ids[place]] = 0
        self.is_elsewhere[expert] = 1
        self.ids[place] = expert

    def _room(self, num: int) -> ExpertLayer:
        up, down = self._plain(0)
        biases = (plain_bias(self.source, name) for name in ("up", "down"))
        own = [None if bias is None else bias.new_empty(num, *bias.shape[1:], device=self.device) for bias in biases]
        return ExpertLayer(roomy(up, num), roomy(down, num), own[0], own[1], self.source.form.activation)

    def _plain(self, expert: int) -> tuple[Weights, Weights]:
        """The matrices of one, [1, out, in] each, on the device."""
        tensors = {name: part[expert : expert + 1].to(self.device) for name, part in self.source.tensors.items()}
        return plain_weights(self.source.form, tensors)

    def _fill(self, place: int, expert: int) -> None:
        for room, found in zip((self.layer.up, self.layer.down), self._plain(expert), strict=True):
            for name in ("codes", "scales", "offsets", "minimums"):
                if (part := getattr(room, name)) is not None:
                    part[place].copy_(getattr(found, name)[0])
        for name, bias in (("up", self.layer.up_bias), ("down", self.layer.down_bias)):
            if bias is not None and (whole := plain_bias(self.source, name)) is not None:
                bias[place].copy_(whole[expert])


def roomy(weights: Weights, num: int) -> Weights:
    """Weights of so many experts, without numbers."""
    return weights.map_parts(lambda part: part.new_empty(num, *part.shape[1:]))
