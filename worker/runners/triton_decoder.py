"""Runs Llama-like models on a GPU: everything between the matrix products by our Triton kernels.

Imported only where Triton is installed. A decode step launches ten kernels a layer:
qkv, rotate_and_write, attention (two where keys are split), o, add_norm, gate_up, gated, down, add_norm.
A product that worker/kernels/tuning.py cuts into parts launches one more.
"""

from collections.abc import Sequence as Seq
from typing import Any

import torch

from worker.attention.paged import Attention, PagedAttention
from worker.attention.spec import AttentionSpec
from worker.kernels.gpu import norms
from worker.kernels.gpu.activations import gated
from worker.kernels.gpu.rotary import HeadNorms, rotate_and_write
from worker.kernels.quantized import Quantization
from worker.runners.base import AttentionMaker
from worker.runners.decoder import DecoderRunner, norm_rows
from worker.runners.parts.layers import Layer, Norm
from worker.runners.parts.rotation import Rotation
from worker.runners.probe import Unsupported
from worker.state.kv_cache import KVCache

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class TritonDecoderRunner(DecoderRunner):
    """A DecoderRunner with one kernel where torch has several."""

    def __init__(
        self,
        model: Any,
        kv_cache: KVCache,
        specs: Seq[AttentionSpec],
        attend_with: AttentionMaker = PagedAttention,
        quantization: Quantization | None = None,
    ) -> None:
        """`attend_with` makes a PagedAttention, or one of its subclasses: the `slots` of the tokens are read there."""
        if model.dtype not in DTYPES:
            raise Unsupported(f"its numbers are {model.dtype}")
        super().__init__(model, kv_cache, specs, attend_with, quantization)
        self.fixed = {kind: self.rotary.fixed(kind) for kind in self.rotary_kinds}
        self.head_norms = [head_norms_of(layer) for layer in self.layers]

    def _rotation(self, hidden: torch.Tensor, positions: torch.Tensor, kind: str | None) -> Rotation:
        """cos and sin, [T, num_rotated]."""
        fixed = self.fixed[kind]
        return self.rotary(hidden, positions, kind) if fixed is None else fixed(positions)

    def _normed(self, hidden: torch.Tensor, norm: Norm) -> torch.Tensor:
        return norms.rms_norm(hidden, norm.weight, norm.eps)

    def _add_norm(
        self, hidden: torch.Tensor, change: torch.Tensor, change_norm: Norm | None, norm: Norm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_change = None if change_norm is None else (change_norm.weight, change_norm.eps)
        return norms.add_norm(hidden, change, norm.weight, norm.eps, of_change)

    def _gated(self, gate_up: torch.Tensor, activation: str) -> torch.Tensor:
        return gated(gate_up, activation)

    def _attend(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, rotation: Rotation, paged: Attention
    ) -> torch.Tensor:
        assert isinstance(paged, PagedAttention)
        cache, heads = self.kv_cache, self.num_heads
        scales = cache.key_scales[layer_idx], cache.value_scales[layer_idx]
        qkv = norm_rows(layer.qkv(normed), layer, self._normed)
        rotate_and_write(
            qkv, *rotation, self.head_norms[layer_idx], paged.slots, cache.keys[layer_idx], cache.values[layer_idx],
            scales, heads, self.shape.num_kv_heads,
        )  # fmt: skip
        query = qkv.view(len(qkv), -1, self.shape.key_dim)[:, :heads]
        return paged.attend(layer_idx, query, layer.spec).flatten(1)


def head_norms_of(layer: Layer) -> HeadNorms | None:
    if layer.head_norms is None:
        return None
    query, key = layer.head_norms
    return HeadNorms(query.weight, key.weight, query.eps)
