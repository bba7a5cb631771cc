"""The grammar masks of a step, filled by a thread while a GPU computes the logits."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch

from worker.sampling.bitmask import bitmask_words
from worker.state.sequence import GrammarCursor, Sequence

Masks = Callable[[], torch.Tensor] | None  # waits for the masks of a step; None if no row has a grammar


class MaskFiller:
    """Fills masks in a thread for a GPU. On a CPU, where the model has the cores, it fills them when they are read."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._num_words = bitmask_words(vocab_size)
        self._thread = ThreadPoolExecutor(1, "masks") if device.type != "cpu" else None

    def start(self, sequences: Seq[Sequence]) -> Masks:
        """A function that returns int32 [sequences with a grammar, ceil(vocab_size / 32)] on the CPU.

        It raises GrammarFailed when a grammar fails.
        """
        states = [sequence.grammar for sequence in sequences if sequence.grammar is not None]
        if not states:
            return None
        if self._thread is not None:
            return self._thread.submit(self._fill, states).result
        return lambda: self._fill(states)

    @cached_property
    def _executor(self) -> Any:
        """llguidance's threads; None on a CPU."""
        from llguidance import LLExecutor

        return LLExecutor() if self._thread is not None else None

    def _fill(self, states: list[GrammarCursor]) -> torch.Tensor:
        from worker.sampling.grammar import GrammarState  # loaded by whoever compiled a grammar

        bitmask = torch.empty(len(states), self._num_words, dtype=torch.int32)
        own = [state for state in states if isinstance(state, GrammarState)]
        if len(own) == len(states):
            GrammarState.fill_masks(own, bitmask, self._executor)
        else:
            for state, row in zip(states, bitmask, strict=True):
                state.fill_mask(row)
        return bitmask
