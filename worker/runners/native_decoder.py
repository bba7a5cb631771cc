"""Runs Llama-like models on a CPU: matrix products by torch or our kernels, everything between them by our kernels."""

from collections.abc import Sequence as Seq
from functools import partial

import torch

from worker.attention.spec import AttentionSpec
from worker.runners.decoder import norm_rows
from worker.runners.micro_batches import MicroBatches
from worker.runners.parts.layers import Layer
from worker.runners.recorded.native import LANES, NativeBatch, NativeRunner
from worker.runners.recorded.on_cpu import NativeInputs
from worker.state.scheduled_sequence import ScheduledSequence

MAX_DIM, MAX_ROWS = 256, 64  # of worker/kernels/attention.c


class NativeDecoderRunner(NativeRunner):
    """A NativeRunner of models that keep keys and values."""

    micro_batches: MicroBatches | None = None  # set for models whose products are too small for several threads

    def _prepare_attention(self, specs: Seq[AttentionSpec]) -> None:
        """See NativeRunner."""
        self.sinks = [None if spec.sinks is None else spec.sinks.detach().float().contiguous() for spec in specs]

    def _can_attend(self) -> bool:
        """See NativeRunner."""
        dim = self.shape.key_dim
        fits = dim % LANES == self.num_rotated % (2 * LANES) == self.kv_cache.block_size % LANES == 0
        return fits and dim <= MAX_DIM and self.num_shared <= MAX_ROWS

    @property
    def num_shared(self) -> int:
        """Heads of queries to one of keys."""
        return self.num_heads // self.shape.num_kv_heads

    @property
    def tile_tokens(self) -> int:
        """See NativeRunner."""
        return MAX_ROWS // self.num_shared

    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner."""
        compute = partial(super().forward, sampled=sampled)
        # passes hand over no features: one would replace another's
        if self.micro_batches is None or self.feature_layers:
            return compute(rows)
        return self.micro_batches.run(compute, rows)

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

    def _attended(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, inputs: NativeInputs, paged: NativeBatch
    ) -> torch.Tensor:
        """See NativeRunner."""
        qkv = norm_rows(layer.qkv(normed), layer, self._normed)
        self._rotate_and_write(layer_idx, layer, qkv, inputs)
        return self._attend_items(layer_idx, layer, qkv, inputs)

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
