"""A runner on a CPU whose layers are calls of our C kernels: decode steps are recorded, and replayed by C."""

from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from worker.attention.groups import token_slots
from worker.attention.paged import Attention, PagedAttention
from worker.attention.spec import AttentionSpec
from worker.kernels.fused import PackedBefore
from worker.kernels.heap import keep_freed_memory
from worker.kernels.native import NoKernels, load_kernels
from worker.kernels.quantized import Quantization
from worker.models.features import FeatureTap
from worker.progress import OnProgress
from worker.runners.base import AttentionMaker
from worker.runners.decoder import DecoderRunner
from worker.runners.parts.layers import Layer, Norm
from worker.runners.parts.mlp import SparseMlp
from worker.runners.parts.native_router import native_router
from worker.runners.probe import Unsupported
from worker.runners.recorded.on_cpu import NativeInputs, NativeSteps
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

LANES = 16  # of worker/kernels/numbers.h
MAX_EXACT = 64  # tokens of a step that is not padded: decode steps repeat these numbers


def padded(num_tokens: int) -> int:
    """The number of rows that products get, at most 1/32 more than the tokens.

    oneDNN compiles a product for each number of rows, in a third of a millisecond, and caches about a thousand.
    """
    if num_tokens <= MAX_EXACT:
        return num_tokens
    unit = max(8, 1 << (num_tokens.bit_length() - 6))
    return -(-num_tokens // unit) * unit


class NativeBatch(PagedAttention):
    """The rows of a step as arguments of the kernels."""

    def __init__(self, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> None:
        self.kv_cache = kv_cache
        self.slots = torch.tensor(token_slots(rows, kv_cache.block_size))  # [T]
        self.rows = rows
        self.tables = np.fromiter((block_id for row in rows for block_id in row.sequence.block_ids), np.int32)

    def items(self, num_queries: int) -> np.ndarray:
        """Tiles of up to `num_queries` tokens, costliest first: first token, tokens, position, start of its blocks."""
        items = []
        token = table = 0
        for row in self.rows:
            for at in range(0, row.num_inputs, num_queries):
                count = min(num_queries, row.num_inputs - at)
                items.append((token + at, count, row.start + at, table))
            token += row.num_inputs
            table += len(row.sequence.block_ids)
        items.sort(key=lambda item: -item[1] * item[2])
        return np.array(items, dtype=np.int32)


class NativeRunner(DecoderRunner):
    """A DecoderRunner that calls torch for matrix products alone, and for packed ones not even then."""

    can_be_recorded = False  # on a CPU
    steps: NativeSteps | None = None  # from warm_up() on
    batch_type: type[NativeBatch] = NativeBatch

    def __init__(
        self,
        model: Any,
        kv_cache: KVCache,
        specs: Seq[AttentionSpec],
        attend_with: AttentionMaker | None = None,
        quantization: Quantization | PackedBefore | None = None,
    ) -> None:
        """Raises Unsupported where there are no kernels, or none for the model's widths or scores."""
        try:
            self.kernels = load_kernels(model.dtype)
        except NoKernels as reason:
            raise Unsupported(str(reason)) from reason
        super().__init__(model, kv_cache, specs, self.batch_type, quantization)
        parts = (part for layer in model.model.layers for part in self._parts_of(layer))
        downs = {owner.down_proj.in_features for path, owner, _ in parts if path[-1] == "down"}
        widths = {self.embedding.shape[1], *downs}
        fits = self.is_plain and all(width % LANES == 0 for width in widths)
        if not fits or any(layer.spec.softcap is not None for layer in self.layers) or not self._can_attend():
            raise Unsupported("its widths or scores are not those of the kernels")
        for at, layer in enumerate(self.layers):
            if isinstance(layer.mlp, SparseMlp):
                router = native_router(layer.mlp.router, self.kernels, model.dtype)
                mlp = replace(layer.mlp, router=router, add_shared=self._add_shared)
                self.layers[at] = replace(layer, mlp=mlp)
        for norm in (self.norm, *(norm for layer in self.layers for norm in layer.norms)):
            norm.weight = norm.weight.to(self.embedding.dtype)  # some models keep these alone in float32
        self._prepare_attention(specs)

    def _can_attend(self) -> bool:
        """True for layers whose attention the kernels compute."""
        raise NotImplementedError

    def _prepare_attention(self, specs: Seq[AttentionSpec]) -> None:
        """Make what the attention's kernels read besides the layers."""
        raise NotImplementedError

    @property
    def tile_tokens(self) -> int:
        """Of a sequence, whose attention is computed together."""
        raise NotImplementedError

    def _attended(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, inputs: NativeInputs, paged: NativeBatch
    ) -> torch.Tensor:
        """The attention of one layer, [T, heads * dim]; what it keeps is written to the cache."""
        raise NotImplementedError

    @property
    def is_plain(self) -> bool:
        """True for the form of Llama: heads rotated by one set of frequencies, two norms a layer, SiLU."""
        is_llama = self.embedding_scale is None and self.softcap is None and self.rotary_kinds == [None]
        return is_llama and all(layer.is_plain for layer in self.layers)

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """See Runner. Called when the memory of packed weights has been returned to the system."""
        super().warm_up(max_num_seqs, max_model_len, on_progress)
        keep_freed_memory()
        self.steps = NativeSteps(self.kernels, max_model_len, self.kv_cache.block_size, max_num_seqs)

    def run_layers(
        self, hidden: torch.Tensor, positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        """See DecoderRunner."""
        assert isinstance(paged, NativeBatch)
        if num_padding := padded(len(hidden)) - len(hidden):
            hidden, positions = F.pad(hidden, (0, 0, 0, num_padding)), F.pad(positions, (0, num_padding))
        cos, sin = (part.contiguous() for part in self.rotary(hidden, positions, None))
        items = paged.items(self.tile_tokens)
        inputs = NativeInputs(hidden, cos, sin, paged.slots, items, paged.tables)
        steps = self.steps
        if steps is not None and self.can_replay and steps.holds(paged.rows, inputs, len(selected)):
            logits = steps.run(partial(self._compute, paged=paged, selected=None), inputs, selected)
            if logits is not None:
                return logits
        return self._compute(inputs, paged, selected)

    @property
    def can_replay(self) -> bool:
        """True where a decode step is the same calls whatever its sequences are."""
        return not self.feature_layers and (self.adapters is None or self.adapters.current.slots is None)

    def _compute(self, inputs: NativeInputs, paged: NativeBatch, selected: torch.Tensor | None) -> torch.Tensor:
        """The layers and the logits of the `selected` tokens; None: of all."""
        hidden = inputs.hidden
        next_norms = [*(layer.attention_norm for layer in self.layers[1:]), self.norm]
        normed = self._add_norm_in_place(hidden, None, self.layers[0].attention_norm)
        tap = FeatureTap(self.feature_layers, len(self.layers))
        for layer_idx, (layer, next_norm) in enumerate(zip(self.layers, next_norms, strict=True)):
            tap.take(layer_idx, hidden)
            attended = self._attended(layer_idx, layer, normed, inputs, paged)
            # the rest is computed only for wanted logits
            if selected is not None and next_norm is self.norm and not tap.needs_all_tokens:
                hidden, attended = self._select(selected, hidden, attended)
            normed = self._add_norm_in_place(hidden, layer.attention_out(attended), layer.mlp_norm)
            mlp_out = layer.mlp(normed, self._gated)
            normed = self._add_norm_in_place(hidden, mlp_out, next_norm)
        return self._logits(tap, hidden, normed, selected)

    def _add_norm_in_place(self, hidden: torch.Tensor, change: torch.Tensor | None, norm: Norm) -> torch.Tensor:
        """Add to `hidden` in place; returns its norm."""
        out = torch.empty_like(hidden)
        added = change.data_ptr() if change is not None else None
        self.kernels.add_norm(hidden.data_ptr(), added, norm.weight.data_ptr(), out.data_ptr(), *hidden.shape, norm.eps)
        return out

    def _gated(self, gate_up: torch.Tensor, activation: str) -> torch.Tensor:
        """With SiLU: other activations are refused at the start."""
        num_tokens, width = len(gate_up), gate_up.shape[1] // 2
        out = gate_up.new_empty(num_tokens, width)
        self.kernels.swiglu(gate_up.data_ptr(), out.data_ptr(), num_tokens, width)
        return out

    def _add_shared(self, out: torch.Tensor, shared: torch.Tensor, gates: torch.Tensor | None) -> torch.Tensor:
        """See add_shared()."""
        address = None if gates is None else gates.data_ptr()
        self.kernels.add_shared(out.data_ptr(), shared.data_ptr(), address, *out.shape)
        return out
