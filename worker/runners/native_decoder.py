"""Runs Llama-like models on a CPU: matrix products by torch, everything between them by our C kernels."""

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
from worker.runners.decoder import DecoderRunner, norm_rows
from worker.runners.micro_batches import MicroBatches
from worker.runners.parts.layers import Layer, Norm, parts_of
from worker.runners.parts.mlp import SparseMlp
from worker.runners.parts.native_router import native_router
from worker.runners.probe import Unsupported
from worker.runners.recorded.on_cpu import NativeInputs, NativeSteps
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

LANES = 16  # of worker/kernels/numbers.h
MAX_DIM, MAX_ROWS = 256, 64  # of worker/kernels/attention.c
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


class NativeDecoderRunner(DecoderRunner):
    """A DecoderRunner that calls torch four times a layer."""

    can_be_recorded = False  # on a CPU
    steps: NativeSteps | None = None  # from warm_up() on
    micro_batches: MicroBatches | None = None  # set for models whose products are too small for several threads

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
        super().__init__(model, kv_cache, specs, NativeBatch, quantization)
        dim = self.shape.key_dim
        self.num_shared = self.num_heads // self.shape.num_kv_heads
        downs = (owner for layer in model.model.layers for path, owner, _ in parts_of(layer) if path[-1] == "down")
        widths = {self.embedding.shape[1], *(owner.down_proj.in_features for owner in downs)}
        fits = dim % LANES == self.num_rotated % (2 * LANES) == 0 and all(width % LANES == 0 for width in widths)
        if (
            any(spec.softcap is not None for spec in specs)
            or not self.is_plain
            or not fits
            or dim > MAX_DIM
            or self.num_shared > MAX_ROWS
            or kv_cache.block_size % LANES
        ):
            raise Unsupported("its widths or scores are not those of the kernels")
        self.sinks = [None if spec.sinks is None else spec.sinks.detach().float().contiguous() for spec in specs]
        for at, layer in enumerate(self.layers):
            if isinstance(layer.mlp, SparseMlp):
                router = native_router(layer.mlp.router, self.kernels, model.dtype)
                mlp = replace(layer.mlp, router=router, add_shared=self._add_shared)
                self.layers[at] = replace(layer, mlp=mlp)
        for norm in (self.norm, *(norm for layer in self.layers for norm in layer.norms)):
            norm.weight = norm.weight.to(self.embedding.dtype)  # some models keep these alone in float32

    @property
    def is_plain(self) -> bool:
        """True for the form of Llama: heads rotated by one set of frequencies, two norms a layer, SiLU."""
        is_llama = self.embedding_scale is None and self.softcap is None and self.rotary_kinds == [None]
        return is_llama and all(layer.is_plain for layer in self.layers)

    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner."""
        compute = partial(super().forward, sampled=sampled)
        # passes hand over no features: one would replace another's
        if self.micro_batches is None or self.feature_layers:
            return compute(rows)
        return self.micro_batches.run(compute, rows)

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """See Runner. Called when the memory of packed weights has been returned to the system."""
        super().warm_up(max_num_seqs, max_model_len, on_progress)
        keep_freed_memory()
        self.steps = NativeSteps(self.kernels, max_model_len, self.kv_cache.block_size, max_num_seqs)

    def keep(self, layer_idx: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """See ModelRunner. Written as rows without queries, with a rotation by zero."""
        keys, values = self.kv_cache.keys[layer_idx], self.kv_cache.values[layer_idx]
        num_tokens, kv_heads, dim = key.shape
        both = torch.cat([key, value], dim=1).contiguous()
        cos, sin = key.new_ones(num_tokens, dim), key.new_zeros(num_tokens, dim)
        self.kernels.rotate_and_write(
            both.data_ptr(), cos.data_ptr(), sin.data_ptr(), None, None, 0.0, slots.data_ptr(), keys.data_ptr(),
            values.data_ptr(), keys.shape[1] * keys.shape[2], num_tokens, 0, kv_heads, dim, dim,
        )  # fmt: skip

    def run_layers(
        self, hidden: torch.Tensor, positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        """See DecoderRunner."""
        assert isinstance(paged, NativeBatch)
        if num_padding := padded(len(hidden)) - len(hidden):
            hidden, positions = F.pad(hidden, (0, 0, 0, num_padding)), F.pad(positions, (0, num_padding))
        cos, sin = (part.contiguous() for part in self.rotary(hidden, positions, None))
        items = paged.items(MAX_ROWS // self.num_shared)
        inputs = NativeInputs(hidden, cos, sin, paged.slots, items, paged.tables)
        steps = self.steps
        if steps is not None and self.can_replay and steps.holds(paged.rows, inputs, len(selected)):
            logits = steps.run(partial(self._compute, selected=None), inputs, selected)
            if logits is not None:
                return logits
        return self._compute(inputs, selected)

    @property
    def can_replay(self) -> bool:
        """True where a decode step is the same calls whatever its sequences are."""
        return not self.feature_layers and (self.adapters is None or self.adapters.current.slots is None)

    def _compute(self, inputs: NativeInputs, selected: torch.Tensor | None) -> torch.Tensor:
        """The layers and the logits of the `selected` tokens; None: of all."""
        hidden = inputs.hidden
        next_norms = [*(layer.attention_norm for layer in self.layers[1:]), self.norm]
        normed = self._add_norm_in_place(hidden, None, self.layers[0].attention_norm)
        tap = FeatureTap(self.feature_layers, len(self.layers))
        for layer_idx, (layer, next_norm) in enumerate(zip(self.layers, next_norms, strict=True)):
            tap.take(layer_idx, hidden)
            qkv = norm_rows(layer.qkv(normed), layer, self._normed)
            self._rotate_and_write(layer_idx, layer, qkv, inputs)
            attended = self._attend_items(layer_idx, layer, qkv, inputs)
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

    def _rotate_and_write(self, layer_idx: int, layer: Layer, qkv: torch.Tensor, inputs: NativeInputs) -> None:
        keys, values = self.kv_cache.keys[layer_idx], self.kv_cache.values[layer_idx]
        query_norm, key_norm = layer.head_norms or (None, None)
        self.kernels.rotate_and_write(
            qkv.data_ptr(), inputs.cos.data_ptr(), inputs.sin.data_ptr(),
            query_norm and query_norm.weight.data_ptr(), key_norm and key_norm.weight.data_ptr(),
            query_norm.eps if query_norm else 0.0, inputs.slots.data_ptr(), keys.data_ptr(), values.data_ptr(),
            keys.shape[1] * keys.shape[2], len(inputs.slots), self.num_heads, self.shape.num_kv_heads,
            self.num_rotated, self.shape.key_dim,
        )  # fmt: skip

    def _attend_items(self, layer_idx: int, layer: Layer, qkv: torch.Tensor, inputs: NativeInputs) -> torch.Tensor:
        """[T, heads * dim]"""
        keys, values = self.kv_cache.keys[layer_idx], self.kv_cache.values[layer_idx]
        dim, num_tokens = self.shape.key_dim, len(inputs.slots)
        out = qkv.new_empty(len(qkv), self.num_heads * dim)
        if num_tokens < len(out):
            out[num_tokens:] = 0
        sinks = self.sinks[layer_idx]
        self.kernels.attend(
            qkv.data_ptr(), keys.data_ptr(), values.data_ptr(), keys.shape[1] * keys.shape[2], keys.shape[2],
            inputs.tables.ctypes.data, inputs.items.ctypes.data, len(inputs.items), self.num_heads,
            self.shape.num_kv_heads, dim, layer.spec.scale, layer.spec.window or 0,
            None if sinks is None else sinks.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return out
