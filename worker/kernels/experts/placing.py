"""A model whose experts stand in host memory: which are on the GPU too, and from how many rows on all go there."""

import logging
import time
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager

import torch

from worker.kernels.experts.card import CardExperts
from worker.kernels.experts.layer import Experts
from worker.kernels.experts.ram import RamExperts

logger = logging.getLogger(__name__)

TRIED_ROWS = (32, 64, 128, 256, 512, 1024, 2048)
LEAST_CARD = 2  # experts of a layer on the GPU, at least
MARGIN = 1.25  # times as much as the one whose place it takes, an expert is used
LEAST_USES = 64  # of a layer's experts, on average, before they are compared
MOST_USES = 1024  # from so many on, on average, they are halved: what was asked long ago counts less
MOST_REPLACED = 8  # at a time, over all layers
STEPS_BETWEEN = 64  # two looks at what is used


class HostedExperts:
    """The experts of all layers of a model, in host memory beside a GPU."""

    def __init__(self, layers: Seq[RamExperts], device: torch.device) -> None:
        """At least one layer."""
        self.layers = layers
        self.device = device
        self.min_streamed: int | None = None  # rows from which on the GPU computes; None: never
        self._num_steps = 0

    def streams(self, num_rows: int) -> bool:
        """True for steps that the GPU computes with weights that are copied to it, which waits for their choice."""
        return self.min_streamed is not None and num_rows >= self.min_streamed

    @contextmanager
    def counted(self, num_rows: torch.Tensor) -> Iterator[None]:
        """See HostWork.counted()."""
        with self.layers[0].work.counted(num_rows):
            yield

    @torch.inference_mode()
    def choose_streaming(self, top_k: int, dtype: torch.dtype) -> None:
        """Measure from how many rows on it pays to copy a layer's weights to the GPU."""
        first = self.layers[0]
        if first.streamed is None:
            return
        width, num_experts = first.experts.form.up.num_in, len(first.uses)
        generator = torch.Generator(self.device).manual_seed(0)
        copied_s = 0.0
        for rows in TRIED_ROWS:
            hidden = torch.randn(rows, width, device=self.device, generator=generator).to(dtype)
            weights, chosen = torch.rand(rows, num_experts, device=self.device, generator=generator).topk(top_k)
            call = hidden, chosen, weights, torch.empty_like(hidden)
            if not copied_s:
                copied_s = self._seconds_of(first.streamed, call)
            cpu_s = self._seconds_of(first, call)
            shown = cpu_s * 1e3, copied_s * 1e3
            logger.info("experts of a layer, %d rows: %.1f ms by the CPU, %.1f ms copied", rows, *shown)
            if cpu_s > copied_s:
                self.min_streamed = rows
                break
        for experts in self.layers:
            experts.min_streamed = self.min_streamed

    def _seconds_of(self, experts: Experts, call: tuple[torch.Tensor, ...]) -> float:
        """The better of two calls, after one that takes memory and wakes what sleeps."""
        times = []
        for _ in range(3):
            self._synchronize()
            started = time.perf_counter()
            experts(*call)
            self._synchronize()
            times.append(time.perf_counter() - started)
        return min(times[1:])

    def fill_card(self, num_bytes: int) -> int:
        """Put as many experts of each layer as fit on the GPU too, the same number; returns that number.

        They are the first ones, as none is used yet: between_steps() puts others in their places.
        """
        num_experts = min(len(layer.uses) for layer in self.layers)
        each = sum(layer.experts.num_bytes // len(layer.uses) for layer in self.layers)
        num = min(num_experts, num_bytes // max(1, each))
        if num < LEAST_CARD:
            return 0
        for layer in self.layers:
            layer.card = CardExperts(layer.experts, torch.arange(num), self.device, pins=self.device.type == "cuda")
        logger.info("%d of %d experts of %d layers are on the GPU", num, num_experts, len(self.layers))
        return num

    def between_steps(self) -> None:
        """Now and then, put experts that were used more on the GPU in place of those used less.

        What was computed before the first step was to try: it tells nothing of what is asked.
        """
        self._num_steps += 1
        if self._num_steps == 1:
            for layer in self.layers:
                layer.uses.zero_()
        if self._num_steps % STEPS_BETWEEN == 0:
            self.replace_least_used()

    @torch.inference_mode()
    def replace_least_used(self) -> int:
        """The number of experts that were replaced. It waits for the GPU if there is anything to replace."""
        found = [(gain, layer, place, expert) for layer in self.layers for gain, place, expert in better(layer)]
        wanted = sorted(found, key=lambda change: -change[0])[:MOST_REPLACED]
        if wanted:
            self._synchronize()
        for _, layer, place, expert in wanted:
            assert layer.card is not None
            layer.card.replace(place, expert)
        for layer in self.layers:
            if int(layer.uses.sum()) >= MOST_USES * len(layer.uses):
                layer.uses.floor_divide_(2)
        return len(wanted)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def better(layer: RamExperts) -> list[tuple[int, int, int]]:
    """(uses more than now, place on the GPU, the expert that should have it)."""
    card, uses = layer.card, layer.uses.clone()
    if card is None or int(uses.sum()) < LEAST_USES * len(uses):
        return []
    others = uses.clone()
    others[card.ids] = -1
    most = others.argsort(descending=True)[: len(card.ids)].tolist()
    least = uses[card.ids].argsort()[: len(most)].tolist()
    return [
        (int(others[expert] - uses[card.ids[place]]), place, expert)
        for place, expert in zip(least, most, strict=True)
        if others[expert] > MARGIN * uses[card.ids[place]]
    ]
