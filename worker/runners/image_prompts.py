"""Reads prompts with images by the model's own forward pass, and writes their keys and values to the paged cache.

An image's tokens may attend to each other, and may have positions and features of their own. So all tokens up to the
end of the last image go through the stock forward pass at once, together with the pixels. After that the sequence is
computed like any other, with its positions shifted by those that the images took.
"""

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from worker.attention.groups import token_slots
from worker.attention.paged import ATTENTION_NAME
from worker.device import upload
from worker.models.loader import LoadedModel
from worker.models.transformers_seams import position_shift, set_position_shift, shifts_positions
from worker.models.vision import ImageProcessor
from worker.progress import OnProgress
from worker.runners.base import ModelRunner, StepAdapters, adapted, flat_inputs, token_runs
from worker.runners.layer_survey import LayerSurvey, cache_to_try
from worker.runners.probe import ImageProbe, Unsupported
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

STOCK_NAME = "sdpa"
READING_NAME = "omni_reading"
MAX_SHIFTS = 10_000  # sets of images whose shift is remembered


class LanguagePart(nn.Module):
    """The language model and head of a vision model, with the attributes of a text model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config, self.dtype = model.config, model.dtype
        self.model = model.get_decoder()
        self.lm_head = model.get_output_embeddings()
        self.set_output_embeddings = model.set_output_embeddings


class ImagePromptRunner:
    """A Runner that reads images itself and passes all other rows to `inner`."""

    def __init__(self, model: Any, inner: ModelRunner, images: ImageProcessor, stock_attention: str) -> None:
        """`inner` runs the language part. Raises Unsupported where the stock attention is not sdpa."""
        if stock_attention != STOCK_NAME:
            raise Unsupported(f"it reads images by {stock_attention} attention")
        self.inner = inner
        self.takes_pending, self.takes_drafts = inner.takes_pending, inner.takes_drafts
        self._model = model
        self._language_model = model.get_decoder()
        self._images = images
        self._shifts_positions = shifts_positions(model)
        self._slots = torch.empty(0)  # of the tokens that are being read
        self._stock_attention = AttentionInterface()[STOCK_NAME]
        self.shifts: OrderedDict[str, int] = OrderedDict()  # by the sequence's salt, which identifies its images
        AttentionMaskInterface.register(READING_NAME, AttentionMaskInterface()[STOCK_NAME])

    @property
    def kv_cache(self) -> KVCache:
        return self.inner.kv_cache

    @kv_cache.setter
    def kv_cache(self, kv_cache: KVCache) -> None:
        self.inner.kv_cache = kv_cache

    @property
    def adapters(self) -> StepAdapters | None:
        return self.inner.adapters

    @adapters.setter
    def adapters(self, adapters: StepAdapters | None) -> None:
        self.inner.adapters = adapters

    @torch.inference_mode()
    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner."""
        read = {at: self._read(row, sampled) for at, row in enumerate(rows) if self._is_to_be_read(row)}
        others = [row for at, row in enumerate(rows) if at not in read]
        if not read:
            return self.inner.forward(rows, sampled)
        computed = iter(self._computed(others, sampled))
        return torch.cat([read[at] if at in read else next(computed) for at in range(len(rows))])

    def _computed(self, rows: list[ScheduledSequence], sampled: torch.Tensor | None) -> list[torch.Tensor]:
        """The logits of each row."""
        if not rows:
            return []
        return list(torch.split(self.inner.forward(rows, sampled), [row.num_samples for row in rows]))

    def forget(self, sequence: Sequence) -> None:
        self.inner.forget(sequence)

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """See Runner."""
        self.inner.warm_up(max_num_seqs, max_model_len, on_progress)

    def _is_to_be_read(self, row: ScheduledSequence) -> bool:
        """If not, set the sequence's position shift."""
        sequence = row.sequence
        if not sequence.images:
            return False
        is_known = sequence.cache_salt in self.shifts and self.inner.can_continue(sequence)
        if row.start < sequence.images_end or not is_known:
            return True
        self.shifts.move_to_end(sequence.cache_salt)
        sequence.position_shift = self.shifts[sequence.cache_salt]
        return False

    def _read(self, row: ScheduledSequence, sampled: torch.Tensor | None) -> torch.Tensor:
        """The row's logits, as forward() returns them. Chunks that end before the last image are not computed yet."""
        sequence, stop = row.sequence, row.start + row.num_inputs
        device = self.kv_cache.keys[0].device
        if stop < sequence.images_end:
            return torch.empty(0, self._model.config.get_text_config().vocab_size, device=device)
        row = row.from_start()
        inputs = flat_inputs([row], sampled, device)
        self._slots = upload(torch.tensor(token_slots([row], self.kv_cache.block_size)), device)
        seen = self._images.inputs(sequence.images, row.input_ids, self._model) | self.inner.begin(sequence)
        wanted = torch.arange(stop - 1 - len(sequence.draft), stop, device=device)
        with self._reading(), adapted(self.adapters, token_runs([row])):
            output = self._model(input_ids=inputs[None], logits_to_keep=wanted, **seen)
        self._remember_shift(sequence)
        logits: torch.Tensor = output.logits[0, : row.num_samples]
        return logits.float()

    def _remember_shift(self, sequence: Sequence) -> None:
        """For this sequence and for others that find its images in the prefix cache."""
        shift = position_shift(self._model) if self._shifts_positions else None
        sequence.position_shift = int(shift) if shift is not None else 0
        self.shifts[sequence.cache_salt] = sequence.position_shift
        self.shifts.move_to_end(sequence.cache_salt)
        if len(self.shifts) > MAX_SHIFTS:
            self.shifts.popitem(last=False)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """While active, the model uses its stock attention and each layer's keys and values are written to `_slots`."""
        AttentionInterface.register(READING_NAME, self._attend)  # transformers has one for all models of a process
        self._language_model.set_attn_implementation(READING_NAME)
        if self._shifts_positions:
            set_position_shift(self._model, None)
        try:
            yield
        finally:
            self._language_model.set_attn_implementation(ATTENTION_NAME)

    def _attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Called by transformers as the attention."""
        self.keep(int(module.layer_idx), key, value)
        attended: tuple[torch.Tensor, None] = self._stock_attention(module, query, key, value, mask, **kwargs)
        return attended

    def keep(self, layer_idx: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write a layer's keys and values of the tokens that are being read, [1, kv_heads, T, dim] each."""
        self.inner.keep(layer_idx, self._slots, key[0].transpose(0, 1), value[0].transpose(0, 1))


def runner_with_images(
    loaded: LoadedModel, inner: ModelRunner, layers: LayerSurvey, probe: ImageProbe, stock_attention: str, most: float
) -> ImagePromptRunner:
    """Raises Unsupported if the logits after a picture differ from those expected by more than `most`."""
    assert loaded.images is not None
    runner = ImagePromptRunner(loaded.model, inner, loaded.images, stock_attention)
    runner.kv_cache = cache_to_try(loaded, layers, len(probe.token_ids))
    probe.check(runner, most)
    return runner
