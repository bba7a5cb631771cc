"""Runs models that our KV cache cannot hold: one sequence at a time, each with the cache transformers makes for it."""

from collections.abc import Sequence as Seq
from typing import Any

import torch
from transformers import DynamicCache

from worker.kv_cache import KVCache
from worker.model_runner import row_inputs
from worker.scheduler import Row
from worker.sequence import Sequence


class SequentialRunner:
    """`kv_cache` only counts here, so that no more sequences are admitted than memory can hold; it has no tensors."""

    def __init__(self, model: Any, kv_cache: KVCache) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self._caches: dict[Sequence, Any] = {}

    def forward(self, rows: Seq[Row]) -> torch.Tensor:
        """See Runner."""
        logits = [self._run(row) for row in rows]
        wanted = [chunk for row, chunk in zip(rows, logits, strict=True) if row.samples]
        return torch.cat(wanted).float() if wanted else torch.empty(0)

    def forget(self, sequence: Sequence) -> None:
        self._caches.pop(sequence, None)

    def _run(self, row: Row) -> torch.Tensor:
        """Logits [1, vocab] after the row's last token."""
        sequence = row.sequence
        if sequence.num_computed == 0:
            self._caches[sequence] = DynamicCache(config=self.model.config)
        device = next(self.model.parameters()).device
        inputs = torch.tensor([row_inputs(row)], device=device)
        output = self.model(input_ids=inputs, past_key_values=self._caches[sequence], use_cache=True, logits_to_keep=1)
        last: torch.Tensor = output.logits[0, -1:]
        return last
