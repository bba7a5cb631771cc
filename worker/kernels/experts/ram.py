"""Experts in host memory beside a GPU: the CPU computes them while the GPU goes on, within recorded steps too.

Of a large chunk of a prompt, which chooses nearly all experts, the weights go to the GPU instead (streamed.py).
"""

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch

from worker.kernels.experts.card import CardExperts
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.host_work import ROOMS, CHostNode, HostWork, host_work, num_threads
from worker.kernels.experts.layer import Encode, ExpertLayer, Experts, expert_layer, has_experts
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.experts.streamed import Ring, StreamedExperts
from worker.kernels.experts.swap import drop_matrices, product_of, use_experts
from worker.kernels.native import NoKernels

logger = logging.getLogger(__name__)


class RamExperts:
    """See ExpertsBeside. From `min_streamed` rows on the GPU computes, with weights that are copied to it."""

    def __init__(self, experts: CpuExperts, work: HostWork, streamed: StreamedExperts | None = None) -> None:
        self.experts = experts
        self.work = work
        self.streamed = streamed
        self.min_streamed: int | None = None  # rows; None: never
        self.card: CardExperts | None = None
        self.uses = torch.zeros(experts.c_layer.num_experts, dtype=torch.long)  # of each expert, by tokens so far
        self.compute = experts.function  # the address of what the CPU runs
        self._nodes: list[CHostNode] = []  # of recordings

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        """See Experts."""
        self.begin(hidden, chosen, weights, out)()

    def begin(
        self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor
    ) -> Callable[[], None]:
        """See ExpertsBeside."""
        if self.streamed is not None and self._are_many(len(hidden)):
            self.streamed(hidden, chosen, weights, out)
            return finished
        if self.card is not None and len(self.card.ids) == len(self.uses):
            self.card(hidden, chosen, weights, out)
            return finished
        hidden, chosen, weights = hidden.contiguous(), chosen.contiguous(), weights.contiguous()
        found = out if out.is_contiguous() else torch.empty_like(hidden)
        self.work.stream.wait(self.work.stream.told())
        for rows in slices(len(hidden)):
            self._put(hidden[rows], chosen[rows], weights[rows], found[rows])
        on_card = None
        if self.card is not None:
            self.card(hidden, chosen, weights, on_card := torch.empty_like(hidden))

        def finish() -> None:
            self.work.stream.meet(
                self.work.stream.mark()
            )  # `hidden`, `chosen` and `weights` live until here: copies of them may still run
            if found is not out:
                out.copy_(found)
            if on_card is not None:
                out.add_(on_card)
            release()

        def release(_: object = (hidden, chosen, weights)) -> None:
            """Holds what is copied."""

        return finish

    def set_compute(self, function: int) -> None:
        """Have the CPU run another function, in recordings too: for measurements. Nothing may be on its way."""
        self.compute = function
        for node in self._nodes:
            node.compute = function

    def _are_many(self, num_rows: int) -> bool:
        """Steps that are recorded cannot wait for the choice of experts."""
        return self.min_streamed is not None and num_rows >= self.min_streamed and not self.work.is_counted

    def _put(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        work, stream = self.work, self.work.stream
        room = work.room(len(hidden), hidden.shape[1], chosen.shape[1], hidden.dtype)
        node = work.new_node(self.experts, room, *chosen.shape)
        node.compute, node.uses = self.compute, self.uses.data_ptr()
        if self.card is not None:
            node.is_elsewhere = self.card.is_elsewhere.data_ptr()
        if stream.is_recording:
            self._nodes.append(node)
        stream.to_host(room.hidden, hidden)
        stream.to_host(room.chosen, chosen)
        stream.to_host(room.weights, weights)
        work.put(node)
        stream.to_device(out, room.out)


class WaitingExperts:
    """Experts in host memory that no kernel of ours computes: the GPU waits for torch, and steps are not recorded."""

    def __init__(self, layer: ExpertLayer) -> None:
        self.experts = LoopedExperts(layer)

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        """See Experts."""
        found = torch.empty(hidden.shape, dtype=hidden.dtype)
        self.experts(hidden.cpu(), chosen.cpu(), weights.cpu(), found)
        out.copy_(found)


def finished() -> None:
    """What begin() returns where nothing is left to do."""


def slices(num_rows: int) -> Iterator[slice]:
    """Of no more rows than the largest room has."""
    return (slice(start, min(start + ROOMS[-1], num_rows)) for start in range(0, num_rows, ROOMS[-1]))


def use_ram_experts(
    part: Any, device: torch.device, threads: int | None, encode_for: Callable[[ExpertLayer], Encode | None]
) -> list[RamExperts]:
    """Have experts of the modules under `part`, whose weights stand in host memory, computed there for a GPU.

    `threads`: of the CPU; None: see num_threads(); `encode_for`: how dense ones are quantized, if they are.
    Raises ValueError for experts that we do not compute.
    """
    found: dict[Any, Experts] = {}
    maker = RamMaker(device, threads)
    for module in part.modules():
        product, layer = product_of(module), expert_layer(module)
        if isinstance(product, CpuExperts):
            found[module] = maker.made(product)
        elif layer is not None and layer.up.codes.device.type == "cpu":
            found[module] = maker.made_of(layer, encode_for(layer))
            if isinstance(found[module], RamExperts):
                drop_matrices(module)  # there is a copy, in the order in which the CPU reads
        elif has_experts(module) and product is None and module.down_proj.device.type == "cpu":
            raise ValueError(f"OMNI_EXPERTS=ram does not fit {type(module).__name__}: set it to gpu.")
    if found:
        use_experts(part, found)
    return [experts for experts in found.values() if isinstance(experts, RamExperts)]


class RamMaker:
    """Makes the experts of one model, which share a way to the CPU and blocks on the GPU with no other model."""

    def __init__(self, device: torch.device, threads: int | None) -> None:
        self._device = device
        self._threads = num_threads(threads)
        self._rings: dict[int, Ring] = {}

    @cached_property
    def _work(self) -> HostWork:
        return host_work(self._device)

    def made(self, experts: CpuExperts) -> RamExperts:
        """The same experts for hidden states on a GPU. Raises NoKernels."""
        experts.c_layer.num_threads = self._threads
        streamed = StreamedExperts(experts, self._work, self._device, self._rings)
        return RamExperts(experts, self._work, streamed)

    def made_of(self, layer: ExpertLayer, encode: Encode | None) -> Experts:
        """Experts whose weights are in host memory, for hidden states on a GPU."""
        try:
            return self.made(CpuExperts.of(layer, encode))
        except NoKernels as reason:
            logger.warning("experts in host memory are computed by torch, in steps that are not recorded: %s", reason)
            return WaitingExperts(layer if encode is None else layer.quantized(encode))
