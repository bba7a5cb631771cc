"""Runs models with layers that keep a state of fixed size instead of keys and values: Qwen3.5, LFM2, Jamba.

Attention layers use the paged cache as usual. States belong to a sequence; those of sequences that decode together are
stacked, so that a step is one forward pass for all of them and one for each prompt. A state summarizes all tokens
before it and no token can be removed from it: prefixes are not shared, and there are no drafts and no pending tokens.
"""

from collections.abc import Sequence as Seq
from typing import Any

import torch
from transformers import DynamicCache

from worker.attention.paged import Attention, PagedAttention
from worker.attention.spec import AttentionSpec
from worker.device import upload
from worker.models.transformers_seams import cache_parameter, layer_states, set_layer_states, state_layers
from worker.runners.base import AttentionMaker, ModelRunner, adapted, kernel_order, positions_of, token_runs
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence


class States(DynamicCache):  # type: ignore[misc]
    """The states of some sequences. Keys and values pass through it to the paged cache."""

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Called by attention layers, whose keys and values are not kept here."""
        return key_states, value_states

    @property
    def kept(self) -> list[Any]:
        """The layers that keep a state."""
        return state_layers(self)

    @property
    def num_bytes(self) -> int:
        return sum(state.nbytes for layer in self.kept for states in layer_states(layer) for state in states.values())


class PlacedAttention:
    """Attention for models of which only some layers attend; `places` maps a layer to its place in the KV cache."""

    def __init__(self, attention: Attention, places: dict[int, int]) -> None:
        self._attention = attention
        self._places = places

    def forward(
        self, layer_idx: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec
    ) -> torch.Tensor:
        """See PagedAttention."""
        return self._attention.forward(self._places[layer_idx], query, key, value, spec)


class HybridRunner(ModelRunner):
    """`places`: the layers that attend and their places in the cache. `reads_whole`: prompts are not cut in chunks."""

    takes_pending = takes_drafts = can_be_recorded = False

    def __init__(
        self,
        model: Any,
        kv_cache: KVCache,
        places: dict[int, int],
        attend_with: AttentionMaker = PagedAttention,
        *,
        reads_whole: bool = False,
    ) -> None:
        super().__init__(model, kv_cache, attend_with)
        self.state_bytes = 0  # of one sequence; 0 until one has been computed
        self._places = places
        self._reads_whole = reads_whole
        self._cache_name = cache_parameter(model)
        self._states: dict[Sequence, States] = {}
        self._together: dict[Sequence, None] = {}  # sequences whose states are stacked, in order
        self._stack: States | None = None

    @torch.inference_mode()
    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner."""
        for sequence in [*self._together, *self._states]:
            if not sequence.block_ids:  # preempted
                self.forget(sequence)
        decoding: list[ScheduledSequence] = []
        reading: list[ScheduledSequence] = []
        for row in rows:
            goes_on = row.num_tokens == 1 and row.start > 0 and self.can_continue(row.sequence)
            (decoding if goes_on else reading).append(row)
        try:
            logits = {row.sequence: self._read(row) for row in reading}
            if decoding:
                logits |= self._decode(decoding)
        except Exception:  # some layers may be a token ahead of others, so these sequences are computed from the start
            for row in rows:
                self.forget(row.sequence)
            raise
        wanted = [logits[row.sequence] for row in rows if row.samples]
        return torch.cat(wanted).float() if wanted else torch.empty(0)

    def can_continue(self, sequence: Sequence) -> bool:
        return sequence in self._states or sequence in self._together

    def begin(self, sequence: Sequence) -> dict[str, Any]:
        self.forget(sequence)
        self._states[sequence] = self._new_states()
        return {self._cache_name: self._states[sequence], "use_cache": True}

    def forget(self, sequence: Sequence) -> None:
        """See Runner."""
        if sequence in self._together:
            self._unstack()
        self._states.pop(sequence, None)

    def keep(self, layer_idx: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        super().keep(self._places[layer_idx], slots, key, value)

    def _new_states(self) -> States:
        return States(config=self.model.config)

    def _read(self, row: ScheduledSequence) -> torch.Tensor:
        """Logits [1, vocab] after a row in a pass of its own; from the first token on if its state is lost."""
        sequence = row.sequence
        if self._reads_whole and not row.samples:
            return torch.empty(0)
        if row.start > 0 and not self._reads_whole and self.can_continue(sequence):
            if sequence in self._together:
                self._unstack()
            given: dict[str, Any] = {self._cache_name: self._states[sequence], "use_cache": True}
        else:
            given = self.begin(sequence)
            row = row.from_start()
        logits = self._pass([row], row.input_ids, 1, given)
        self.state_bytes = self._states[sequence].num_bytes
        return logits

    def _decode(self, rows: list[ScheduledSequence]) -> dict[Sequence, torch.Tensor]:
        """Logits [1, vocab] after the last token of each row, in one pass."""
        ordered = sorted(rows, key=kernel_order)
        sequences = [row.sequence for row in ordered]
        if sequences != list(self._together):
            self._unstack()
            self._stack = stacked([self._states.pop(sequence) for sequence in sequences], self._new_states())
            self._together = dict.fromkeys(sequences)
        tokens = [token for row in ordered for token in row.input_ids]
        logits = self._pass(ordered, tokens, len(ordered), {self._cache_name: self._stack, "use_cache": True})
        return dict(zip(sequences, torch.split(logits, 1), strict=True))

    def _pass(
        self, rows: list[ScheduledSequence], tokens: list[int], batch: int, given: dict[str, Any]
    ) -> torch.Tensor:
        """Logits [batch, vocab] after the last token of each row; `tokens` [batch * T] are those of all rows."""
        device = self.kv_cache.keys[0].device
        inputs, places = (
            upload(torch.tensor(numbers), device).view(batch, -1)
            for numbers in (tokens, [at for row in rows for at in positions_of(row)])
        )
        paged = PlacedAttention(self.attend_with(self.kv_cache, rows, device), self._places)
        last = upload(torch.tensor([inputs.shape[1] - 1]), device)  # an int would make the head copy its weights
        with adapted(self.adapters, token_runs(rows)):
            output = self.model(input_ids=inputs, position_ids=places, paged=paged, logits_to_keep=last, **given)
        logits: torch.Tensor = output.logits[:, 0]
        return logits

    def _unstack(self) -> None:
        """Split the stack into a state for each sequence."""
        for at, sequence in enumerate(self._together):
            assert self._stack is not None
            self._states[sequence] = one_of(self._stack, at, self._new_states())
        self._together, self._stack = {}, None


def keeps_states(model: Any) -> bool:
    """True if some layers of the model keep a state that can be stacked."""
    try:
        return bool(States(config=model.config).kept)
    except Exception:  # configurations of any kind are tried here
        return False


def stacked(single: list[States], into: States) -> States:
    """The states of several sequences, side by side."""
    for new, *old in zip(into.kept, *(states.kept for states in single), strict=True):
        kinds = zip(*(layer_states(layer) for layer in old), strict=True)
        set_layer_states(new, old[0], *({at: torch.cat([own[at] for own in kind]) for at in kind[0]} for kind in kinds))
    return into


def one_of(stack: States, at: int, into: States) -> States:
    """The states of the sequence at this place of a stack."""
    for new, old in zip(into.kept, stack.kept, strict=True):
        kinds = ({key: state[at : at + 1] for key, state in kind.items()} for kind in layer_states(old))
        set_layer_states(new, old, *kinds)
    return into
