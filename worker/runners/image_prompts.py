"""Prompts with images beside a ragged step: the model reads each itself, and what its layers keep goes into the blocks.

An image's tokens may see each other, and may have positions and features of their own. So the tokens up to the last
image's end go through the model's own forward pass in one piece, pixels and all; from there on a sequence is a row like
any other, its positions shifted by what the images took.
"""

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from worker.attention.paged import ATTENTION_NAME, token_slots
from worker.device import upload
from worker.models.vision import ImageReader, shift_keeper
from worker.progress import OnProgress
from worker.runners.base import ModelRunner, row_inputs, with_drawn
from worker.runners.probe import Unsupported
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

READING_NAME = "omni_reading"  # as transformers knows it
MAX_SHIFTS = 10_000  # of image sets that are remembered


class LanguagePart(nn.Module):
    """The language model and head of a model of images, laid out as a model of text is."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config, self.dtype = model.config, model.dtype
        self.model = model.get_decoder()
        self.lm_head = model.get_output_embeddings()
        self.set_output_embeddings = model.set_output_embeddings


class ImagePromptRunner:
    """A Runner: `inner` computes all rows but those whose tokens still have an image before them to be read."""

    def __init__(self, model: Any, inner: ModelRunner, images: ImageReader, stock_attention: str) -> None:
        """`inner` runs the language part. Raises Unsupported where the model does not attend by sdpa."""
        if stock_attention != "sdpa":
            raise Unsupported(f"it reads images by {stock_attention} attention")
        self.inner = inner
        self.takes_drawn, self.takes_drafts = inner.takes_drawn, inner.takes_drafts
        self._model = model
        self._images = images
        self._keeper = shift_keeper(model)
        self._slots = torch.empty(0)  # where the tokens that are read belong
        self.shifts: OrderedDict[str, int] = OrderedDict()  # by the salt, which says which images they are
        text_modules = (module for module in model.get_decoder().modules() if hasattr(module, "config"))
        self._text_configs = list({id(module.config): module.config for module in text_modules}.values())
        AttentionInterface.register(READING_NAME, attend_and_keep)
        AttentionMaskInterface.register(READING_NAME, sdpa_mask)

    @property
    def kv_cache(self) -> KVCache:
        return self.inner.kv_cache

    @kv_cache.setter
    def kv_cache(self, kv_cache: KVCache) -> None:
        self.inner.kv_cache = kv_cache

    @torch.inference_mode()
    def forward(self, rows: Seq[ScheduledSequence], drawn: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner."""
        read = {at: self._read(row, drawn) for at, row in enumerate(rows) if self._is_to_be_read(row)}
        others = [row for at, row in enumerate(rows) if at not in read]
        if not read:
            return self.inner.forward(rows, drawn)
        computed = iter(self._computed(others, drawn))
        return torch.cat([read[at] if at in read else next(computed) for at in range(len(rows))])

    def _computed(self, rows: list[ScheduledSequence], drawn: torch.Tensor | None) -> list[torch.Tensor]:
        """The logits of each row."""
        if not rows:
            return []
        return list(torch.split(self.inner.forward(rows, drawn), [num_logits(row) for row in rows]))

    def forget(self, sequence: Sequence) -> None:
        self.inner.forget(sequence)

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """See Runner."""
        self.inner.warm_up(max_num_seqs, max_model_len, on_progress)

    def _is_to_be_read(self, row: ScheduledSequence) -> bool:
        """If not, the sequence's positions are shifted as they have to be."""
        sequence = row.sequence
        if not sequence.images:
            return False
        is_known = sequence.cache_salt in self.shifts and self.inner.can_continue(sequence)
        if row.start < sequence.images_end or not is_known:
            return True
        self.shifts.move_to_end(sequence.cache_salt)
        sequence.position_shift = self.shifts[sequence.cache_salt]
        return False

    def _read(self, row: ScheduledSequence, drawn: torch.Tensor | None) -> torch.Tensor:
        """The row's logits, as forward() gives them. Nothing is done yet before the last image's end."""
        sequence, stop = row.sequence, row.start + row.num_inputs
        device = self.kv_cache.keys[0].device
        if stop < sequence.images_end:
            return torch.empty(0, self._model.config.get_text_config().vocab_size, device=device)
        row = row.from_start()
        inputs = with_drawn(upload(torch.tensor(row_inputs(row)), device), drawn)
        self._slots = upload(torch.tensor(token_slots([row], self.kv_cache.block_size)), device)
        seen = self._images.inputs(sequence.images, row_inputs(row), self._model) | self.inner.begin(sequence)
        wanted = torch.arange(stop - 1 - len(sequence.draft), stop, device=device)
        with self._reading():
            output = self._model(input_ids=inputs[None], logits_to_keep=wanted, **seen)
        self._remember_shift(sequence)
        logits: torch.Tensor = output.logits[0, : num_logits(row)]
        return logits.float()

    def _remember_shift(self, sequence: Sequence) -> None:
        """Those who find what was read in the cache shift their positions alike."""
        noted = self._keeper.rope_deltas if self._keeper is not None else None
        sequence.position_shift = int(noted) if noted is not None else 0
        self.shifts[sequence.cache_salt] = sequence.position_shift
        self.shifts.move_to_end(sequence.cache_salt)
        if len(self.shifts) > MAX_SHIFTS:
            self.shifts.popitem(last=False)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """In here the language model attends as it came, and what its layers keep is written to `_slots`."""
        _under_way.append(self)
        self._attend_by(READING_NAME)
        if self._keeper is not None:
            self._keeper.rope_deltas = None
        try:
            yield
        finally:
            self._attend_by(ATTENTION_NAME)
            _under_way.remove(self)

    def _attend_by(self, name: str) -> None:
        for config in self._text_configs:
            config._attn_implementation = name

    def keep(self, layer_idx: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """What a layer keeps of the tokens that are being read, [1, kv_heads, T, dim] each."""
        self.inner.keep(layer_idx, self._slots, key[0].transpose(0, 1), value[0].transpose(0, 1))


_under_way: list[ImagePromptRunner] = []  # whose pass it is: transformers knows one hook for the whole process


def attend_and_keep(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """transformers' hook for attention."""
    _under_way[-1].keep(int(module.layer_idx), key, value)
    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    return attended


def num_logits(row: ScheduledSequence) -> int:
    """Positions of the row whose logits are wanted."""
    return 1 + len(row.sequence.draft) if row.samples else 0
