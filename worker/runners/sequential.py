"""Runs models that our KV cache cannot hold: one sequence at a time, each with the cache transformers makes for it."""

from collections.abc import Sequence as Seq
from enum import Enum
from typing import Any

import torch
from transformers import DynamicCache

from worker.models.vision import ImageReader, Positions
from worker.progress import OnProgress
from worker.runners.base import cache_parameter, row_inputs
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence


class Mode(Enum):
    """How much a family's own cache can be trusted with, most first."""

    CHUNKS = "prompts in chunks"
    WHOLE_PROMPT = "prompts as a whole"
    NO_CACHE = "everything again for each token"


WITH_IMAGES = (Mode.WHOLE_PROMPT, Mode.NO_CACHE)  # the pass that is given an image's pixels must have all its tokens


class SequentialRunner:
    """`kv_cache` only counts here, so that no more sequences are admitted than memory can hold; it has no tensors."""

    takes_drawn = takes_drafts = False

    def __init__(self, model: Any, kv_cache: KVCache, mode: Mode, images: ImageReader | None = None) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.mode = mode
        self.images = images
        self._positions = Positions(model)
        self._caches: dict[Sequence, Any] = {}
        self._cache_name = cache_parameter(model)

    @torch.inference_mode()
    def forward(self, rows: Seq[ScheduledSequence], drawn: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner. Drafts and pending tokens are not taken."""
        logits = [self._run(row) for row in rows]
        wanted = [last for row, last in zip(rows, logits, strict=True) if row.samples]
        return torch.cat(wanted).float() if wanted else torch.empty(0)

    def forget(self, sequence: Sequence) -> None:
        self._caches.pop(sequence, None)
        self._positions.forget(sequence)

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Nothing is prepared ahead."""

    def _run(self, row: ScheduledSequence) -> torch.Tensor:
        """Logits [1, vocab] after the row's last token; nothing is computed yet where the mode wants more at once."""
        sequence = row.sequence
        if self.mode is Mode.CHUNKS:
            return self._continue(sequence, row_inputs(row), is_first=row.start == 0)
        if not row.samples:
            return torch.empty(0)
        if self.mode is Mode.WHOLE_PROMPT and row.num_tokens == 1 and sequence in self._caches:
            return self._continue(sequence, row_inputs(row), is_first=False)
        return self._continue(sequence, sequence.token_ids, is_first=True)

    def _continue(self, sequence: Sequence, token_ids: list[int], *, is_first: bool) -> torch.Tensor:
        device = next(self.model.parameters()).device
        has_cache = self.mode is not Mode.NO_CACHE
        if has_cache and is_first:
            self._caches[sequence] = DynamicCache(config=self.model.config)
        cache = {self._cache_name: self._caches[sequence]} if has_cache else {}
        seen = (
            self.images.inputs(sequence.images, token_ids, self.model) if self.images is not None and is_first else {}
        )
        self._positions.before(sequence, is_first=is_first)
        output = self.model(input_ids=torch.tensor([token_ids], device=device), use_cache=has_cache, **cache, **seen)
        self._positions.after(sequence)
        last: torch.Tensor = output.logits[0, -1:]
        return last
