"""The grammar masks of a step, filled by a thread while a GPU computes the logits."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor

import torch
from llguidance import LLExecutor

from worker.sampling import grammar
from worker.state.sequence import GrammarCursor, Sequence

Masks = Callable[[], torch.Tensor] | None  # waits for the masks of a step; None if no row has a grammar


class MaskFiller:
    """Fills masks in a thread for a GPU. On a CPU, where the model has the cores, it fills them when they are read."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._num_words = grammar.bitmask_words(vocab_size)
        self._executor = LLExecutor() if device.type != "cpu" else None
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

    def _fill(self, states: list[GrammarCursor]) -> torch.Tensor:
        bitmask = torch.empty(len(states), self._num_words, dtype=torch.int32)
        own = [state for state in states if isinstance(state, grammar.GrammarState)]
        if len(own) == len(states):
            grammar.GrammarState.fill_masks(own, bitmask, self._executor)
        else:
            for state, row in zip(states, bitmask, strict=True):
                state.fill_mask(row)
        return bitmask
