"""From scheduled sequences to logits: the flat inputs of a ragged step, and one forward pass over them."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, Protocol

import torch

from worker.attention.paged import Attention, PagedAttention, write_slots
from worker.device import upload
from worker.progress import OnProgress
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

AttentionMaker = Callable[[KVCache, Seq[ScheduledSequence], torch.device], Attention]


class Runner(Protocol):
    """What the engine calls: a forward pass over a step's rows, and the cache that the scheduler allocates from."""

    kv_cache: KVCache
    takes_drawn: bool  # forward() reads pending tokens from `drawn`
    takes_drafts: bool  # forward() computes drafted tokens together with the next one

    def forward(self, rows: Seq[ScheduledSequence], drawn: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [S, vocab], float32: for each row that samples, of its last token and of each drafted one, in order.

        `drawn`: the token ids of the step in flight, on the device.
        """

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept of a sequence outside its KV blocks, which it has lost."""

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Prepare for steps of this size. `kv_cache` is the final one."""


class ModelRunner:
    """Runs a transformers model over a flat batch, its attention replaced by PagedAttention."""

    takes_drawn = takes_drafts = True

    def __init__(self, model: Any, kv_cache: KVCache, attend_with: AttentionMaker = PagedAttention) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.attend_with = attend_with

    def forward(self, rows: Seq[ScheduledSequence], drawn: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner. Rows are computed in kernel order; their logits are returned in the order of `rows`."""
        order = sorted(range(len(rows)), key=lambda at: kernel_order(rows[at]))
        ordered = [rows[at] for at in order]
        device = self.kv_cache.keys[0].device
        paged = self.attend_with(self.kv_cache, ordered, device)
        tokens = torch.tensor([token for row in ordered for token in row_inputs(row)])
        places = torch.tensor([at for row in ordered for at in positions_of(row)])
        wanted = torch.tensor(sampled_positions(ordered, order), dtype=torch.long)
        inputs, positions, selected = (upload(numbers, device) for numbers in (tokens, places, wanted))
        return self._run(with_drawn(inputs, drawn), positions, paged, selected).float()

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept outside the KV blocks."""

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Nothing to prepare."""

    def can_continue(self, sequence: Sequence) -> bool:
        """True if the runner still holds the state of a partly computed sequence."""
        return True

    def begin(self, sequence: Sequence) -> dict[str, Any]:
        """Keyword arguments for a stock forward pass over a sequence that this runner will continue."""
        return {"use_cache": False}

    def keep(self, layer_idx: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write keys and values of a stock forward pass, [T, kv_heads, dim], to the `slots` [T] of the pools."""
        write_slots(self.kv_cache, layer_idx, slots, key, value)

    def release_weights(self) -> None:
        """Free the model's weights where this runner has its own copies. This one has none."""

    def share_weights(self) -> None:
        """As release_weights(), for a model that still has to run: its layers compute with the copies."""

    def _run(
        self, inputs: torch.Tensor, positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        """inputs, positions: [T]; selected: [S] of them -> logits [S, vocab]."""
        output = self.model(
            input_ids=inputs[None], position_ids=positions[None], use_cache=False, paged=paged, logits_to_keep=selected
        )
        logits: torch.Tensor = output.logits[0]
        return logits


def with_drawn(inputs: torch.Tensor, drawn: torch.Tensor | None) -> torch.Tensor:
    """Token ids [T], pending ones taken from `drawn` [S]. A failed draw, below 0, becomes token 0; its row ends."""
    if drawn is None or not len(drawn):
        return inputs
    return torch.where(inputs < 0, drawn[(-1 - inputs).clamp(min=0)].clamp(min=0), inputs)


def kernel_order(row: ScheduledSequence) -> tuple[bool, int]:
    """Sorts single tokens first, longest context first, so that neighbours can share a kernel call."""
    return (row.num_inputs > 1, -row.start)


def row_inputs(row: ScheduledSequence) -> list[int]:
    return row.sequence.token_ids[row.start : row.start + row.num_tokens] + row.sequence.draft


def positions_of(row: ScheduledSequence) -> range:
    first = row.start + row.sequence.position_shift
    return range(first, first + row.num_inputs)


def sampled_positions(ordered: Seq[ScheduledSequence], order: Seq[int]) -> list[int]:
    """Indices of the tokens whose logits are wanted, in the order of the rows before they were sorted."""
    wanted: dict[int, list[int]] = {}
    start = 0
    for row, asked_at in zip(ordered, order, strict=True):
        stop = start + row.num_inputs
        wanted[asked_at] = list(range(start + row.num_tokens - 1, stop)) if row.samples else []
        start = stop
    return [position for asked_at in sorted(wanted) for position in wanted[asked_at]]
