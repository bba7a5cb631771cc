"""Experts in host memory computed by the GPU: their weights are copied to it, a few experts at a time, for many rows.

A block of experts is copied to pinned memory by all cores, from there to the GPU while the block before it is computed,
and its layout for the CPU is undone there. The GPU waits for the choice of experts, so steps with it are not recorded.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.form import plain_weights
from worker.kernels.experts.host_work import COPY_STREAMS, HostWork, num_threads
from worker.kernels.experts.layer import ExpertLayer, Experts
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.linear import has_kernels
from worker.kernels.packed.linear import has_kernel

BLOCK_BYTES = 64 * 2**20
NUM_BLOCKS = COPY_STREAMS  # one comes to pinned memory, one to the GPU, and one is computed
ALIGNMENT = 256  # bytes


class Ring:
    """Blocks of memory on a device, and their twins in pinned host memory."""

    @torch.inference_mode(False)  # whoever streams first may be in that mode, and others not
    def __init__(self, work: HostWork, device: torch.device, num_bytes: int) -> None:
        self.work = work
        self.pinned = [work.memory(num_bytes, torch.uint8) for _ in range(NUM_BLOCKS)]
        self.blocks = [torch.empty(num_bytes, dtype=torch.uint8, device=device) for _ in range(NUM_BLOCKS)]
        self._copied: list[Any] = [None] * NUM_BLOCKS
        self._used: list[Any] = [None] * NUM_BLOCKS

    def fill(self, at: int, parts: Mapping[str, torch.Tensor], threads: int) -> dict[str, torch.Tensor]:
        """Put copies of tensors in host memory to block `at`; returns them there, for after wait()."""
        stream, found, copies, stop = self.work.copies[at], {}, [], 0
        for name, part in parts.items():
            start = -(-stop // ALIGNMENT) * ALIGNMENT
            stop = start + part.nbytes
            copies.append((self.pinned[at][start:stop], part))
            found[name] = self.blocks[at][start:stop].view(part.dtype).view(part.shape)
        self.work.put_copies(stream, copies, threads)
        if self._used[at] is not None:
            stream.wait(self._used[at])
        stream.to_device(self.blocks[at][:stop], self.pinned[at])
        self._copied[at] = stream.mark()
        return found

    def wait(self, at: int) -> None:
        """What the device is told from now on sees the block's new contents."""
        self.work.copies[at].meet(self._copied[at])

    def free(self, at: int) -> None:
        """What the device was told until now is the last that reads the block."""
        self._used[at] = self.work.copies[at].told()


class StreamedExperts:
    """See Experts. Made for many rows."""

    def __init__(
        self, experts: CpuExperts, work: HostWork, device: torch.device, rings: dict[int, Ring] | None = None
    ) -> None:
        """`rings`: of the model's layers, which are computed in turn, by the size of a block."""
        self._rings = {} if rings is None else rings
        self.experts = experts
        self.work = work
        self.device = device
        self.num_experts = int(experts.c_layer.num_experts)
        each = sum(-(-rows[0].nbytes // ALIGNMENT) for rows in experts.tensors.values()) * ALIGNMENT
        self.at_once = max(1, min(self.num_experts, BLOCK_BYTES // each))  # experts of a block
        self.block_bytes = self.at_once * each + ALIGNMENT * len(experts.tensors)

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        """See Experts. Sums have the same order in every run."""
        top_k = chosen.shape[1]
        order = chosen.flatten().argsort(stable=True)  # pairs of a token and a choice, by expert
        stops = torch.bincount(chosen.flatten(), minlength=self.num_experts).cumsum(0).tolist()
        outputs = hidden.new_empty(chosen.numel(), hidden.shape[1])
        for first, last, compute in self._blocks(stops):
            pairs = order[0 if first == 0 else stops[first - 1] : stops[last - 1]]
            local = (chosen.flatten()[pairs] - first)[:, None]
            found = hidden.new_empty(len(pairs), hidden.shape[1])
            compute(hidden[pairs // top_k], local, weights.new_ones(len(pairs), 1), found)
            outputs[pairs] = found
        sums = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        for choice in range(top_k):
            sums.addcmul_(outputs.view(*chosen.shape, -1)[:, choice], weights[:, choice, None])
        out.copy_(sums)

    def _blocks(self, stops: list[int]) -> Iterator[tuple[int, int, Experts]]:
        """Blocks [first, last) of experts of which any was chosen, on the GPU, the next ones on their way meanwhile."""
        ring = self._ring()
        firsts = [
            first
            for first in range(0, self.num_experts, self.at_once)
            if stops[min(first + self.at_once, self.num_experts) - 1] > (stops[first - 1] if first else 0)
        ]
        ahead = NUM_BLOCKS - 1
        parts = deque(self._fill(ring, at, first) for at, first in enumerate(firsts[:ahead]))
        for at, first in enumerate(firsts):
            own = parts.popleft()
            if at + ahead < len(firsts):
                parts.append(self._fill(ring, (at + ahead) % NUM_BLOCKS, firsts[at + ahead]))
            ring.wait(at % NUM_BLOCKS)
            last = min(first + self.at_once, self.num_experts)
            yield first, last, self._computed(own, first, last)
            ring.free(at % NUM_BLOCKS)

    def _ring(self) -> Ring:
        if self.block_bytes not in self._rings:
            self._rings[self.block_bytes] = Ring(self.work, self.device, self.block_bytes)
        return self._rings[self.block_bytes]

    def _fill(self, ring: Ring, at: int, first: int) -> dict[str, torch.Tensor]:
        parts = {name: part[first : first + self.at_once] for name, part in self.experts.tensors.items()}
        return ring.fill(at, parts, int(self.experts.c_layer.num_threads) or num_threads(None))

    def _computed(self, tensors: Mapping[str, torch.Tensor], first: int, last: int) -> Experts:
        up, down = plain_weights(self.experts.form, tensors)
        whole = [plain_bias(self.experts, name) for name in ("up", "down")]
        biases = [None if bias is None else bias[first:last].to(self.device) for bias in whole]
        return without_copy(ExpertLayer(up, down, biases[0], biases[1], self.experts.form.activation))


def without_copy(layer: ExpertLayer) -> Experts:
    """Experts that read the layer's own tensors, whatever these hold when they do."""
    if has_kernels(layer.up.codes.device) and has_kernel(layer.up) and has_kernel(layer.down):
        from worker.kernels.gpu.experts.product import GroupedExperts

        return GroupedExperts(layer)
    return LoopedExperts(layer)


def plain_bias(experts: CpuExperts, name: str) -> torch.Tensor | None:
    """The biases [experts, out] of "up" or "down", in host memory."""
    at = ("up", "down").index(name)
    bias, form = experts.biases[at], (experts.form.up, experts.form.down)[at]
    if bias is None:
        return None
    places = form.lanes().argsort(stable=True)[: form.num_out]
    return bias.index_select(-1, places).to(getattr(torch, form.dtype))
