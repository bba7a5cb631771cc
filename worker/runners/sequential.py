"""Runs models that our KV cache cannot hold, one sequence at a time, each with a cache of transformers."""

import logging
from collections.abc import Sequence as Seq
from enum import Enum
from typing import Any

import torch
from transformers import DynamicCache

from worker.models.config_fields import largest
from worker.models.loader import EngineConfig, LoadedModel
from worker.models.transformers_seams import cache_parameter
from worker.models.vision import ImageProcessor, PositionShifts
from worker.progress import OnProgress
from worker.runners.base import Runner, StepAdapters, adapted
from worker.runners.limits import Limits, choose_limits
from worker.runners.probe import Expected, Unsupported, check_equal
from worker.state.kv_cache import KVCache, LayerShape
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

logger = logging.getLogger(__name__)


class Mode(Enum):
    """How far a family's own cache works, fastest first."""

    CHUNKS = "prompts in chunks"
    WHOLE_PROMPT = "prompts as a whole"
    NO_CACHE = "the whole sequence for each token"


WITH_IMAGES = (Mode.WHOLE_PROMPT, Mode.NO_CACHE)  # a pass with an image's pixels must have all its tokens


class SequentialRunner:
    """`kv_cache` has no tensors: it only counts blocks, so that no more sequences are admitted than memory can hold."""

    takes_pending = takes_drafts = False
    adapters: StepAdapters | None = None

    def __init__(self, model: Any, kv_cache: KVCache, mode: Mode, images: ImageProcessor | None = None) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.mode = mode
        self.images = images
        self._shifts = PositionShifts(model)
        self._caches: dict[Sequence, Any] = {}
        self._cache_name = cache_parameter(model)

    @torch.inference_mode()
    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner. Rows have no drafts and no pending tokens."""
        logits = [self._run(row) for row in rows]
        wanted = [last for row, last in zip(rows, logits, strict=True) if row.samples]
        return torch.cat(wanted).float() if wanted else torch.empty(0)

    def forget(self, sequence: Sequence) -> None:
        self._caches.pop(sequence, None)
        self._shifts.forget(sequence)

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Nothing to prepare."""

    def _run(self, row: ScheduledSequence) -> torch.Tensor:
        """Logits [1, vocab] after the row's last token; empty where the mode waits for the rest of the prompt."""
        sequence = row.sequence
        if self.mode is Mode.CHUNKS:
            return self._continue(sequence, row.input_ids, is_first=row.start == 0)
        if not row.samples:
            return torch.empty(0)
        if self.mode is Mode.WHOLE_PROMPT and row.num_tokens == 1 and sequence in self._caches:
            return self._continue(sequence, row.input_ids, is_first=False)
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
        self._shifts.restore(sequence, is_first=is_first)
        inputs = torch.tensor([token_ids], device=device)
        with adapted(self.adapters, [(sequence.adapter, len(token_ids))]):
            output = self.model(input_ids=inputs, use_cache=has_cache, **cache, **seen)
        self._shifts.save(sequence)
        last: torch.Tensor = output.logits[0, -1:]
        return last


def sequential_runner(
    loaded: LoadedModel, config: EngineConfig, expected: Expected, num_parameters: int
) -> tuple[Runner, Limits]:
    """Blocks count as if every layer kept keys and values of full width, the most that any cache takes."""
    text = loaded.model.config.get_text_config()
    all_heads = largest(text, "num_attention_heads") or 1
    heads = largest(text, "num_key_value_heads") or all_heads
    head_dim = largest(text, "head_dim") or text.hidden_size // all_heads
    shapes = [LayerShape(heads, head_dim, head_dim)] * text.num_hidden_layers
    limits = choose_limits(loaded, config, shapes, num_parameters)
    room = limits.num_blocks, limits.block_size, torch.float32, loaded.device
    counter = KVCache([], *room, shares_prefixes=False, capacity=limits.capacity)
    for mode in Mode if loaded.images is None else WITH_IMAGES:
        runner = SequentialRunner(loaded.model, counter, mode, loaded.images)
        try:
            check_equal(runner, loaded.model, expected)
        except Unsupported as reason:
            logger.info("not with %s: %s", mode.value, reason)
        else:
            logger.warning("one sequence at a time, %s", mode.value)
            return runner, limits
    raise ValueError(f"{loaded.card.architecture} gives other logits each time it is run.")
