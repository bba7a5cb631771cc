"""Runs Llama-like models on a GPU: matrix products by torch, everything between them by our Triton kernels.

Imported only where Triton is installed. A decode step launches ten kernels a layer at most:
qkv, rotate_and_write, attention (two where keys are split), o, add_norm, gate_up, swiglu, down, add_norm.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch

from worker.attention.paged import Attention, PagedAttention
from worker.attention.spec import AttentionSpec
from worker.kernels.gpu import norms
from worker.kernels.gpu.activations import swiglu
from worker.kernels.gpu.rotary import HeadNorms, rotate_and_write
from worker.kernels.quantized import Quantization
from worker.runners.base import AttentionMaker
from worker.runners.decoder import DecoderRunner, Layer, Norm, Rotation
from worker.runners.probe import Unsupported
from worker.state.kv_cache import KVCache

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_ERROR = 1e-6  # of the cosines and sines of fixed frequencies


@dataclass(frozen=True, slots=True)
class FixedFrequencies:
    """cos and sin of a step in three kernels, where a model's own module takes about nine."""

    frequencies: torch.Tensor  # [rotated] float32, each twice
    scaling: float

    def __call__(self, positions: torch.Tensor) -> Rotation:
        """Positions [T] -> cos and sin, float32 [T, rotated]."""
        angles = positions[:, None] * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self.scaling == 1 else (cos * self.scaling, sin * self.scaling)


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
        self.fixed = self._fixed_frequencies()
        self.head_norms = [head_norms_of(layer) for layer in self.layers]

    def _fixed_frequencies(self) -> FixedFrequencies | None:
        """None for a model whose frequencies depend on the step, or that computes them in another way."""
        kind, once = getattr(self.rotary, "rope_type", None), getattr(self.rotary, "inv_freq", None)
        if not isinstance(kind, str) or "dynamic" in kind or kind == "longrope" or not isinstance(once, torch.Tensor):
            return None
        fixed = FixedFrequencies(torch.cat([once, once]).float(), float(getattr(self.rotary, "attention_scaling", 1)))
        positions = torch.arange(0, 4096, 63, device=once.device)
        expected = self._cos_sin(once.new_zeros(1, dtype=torch.float32), positions)
        is_same = all(
            ours.shape == theirs.shape and (ours - theirs).abs().max() <= MAX_ERROR
            for ours, theirs in zip(fixed(positions), expected, strict=True)
        )
        return fixed if is_same else None

    def _rotation(self, hidden: torch.Tensor, positions: torch.Tensor) -> Rotation:
        """cos and sin, [T, rotated]."""
        return self._cos_sin(hidden, positions) if self.fixed is None else self.fixed(positions)

    def _normed(self, hidden: torch.Tensor, norm: Norm) -> torch.Tensor:
        return norms.rms_norm(hidden, norm.weight, norm.eps)

    def _add_norm(self, hidden: torch.Tensor, change: torch.Tensor, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        return norms.add_norm(hidden, change, norm.weight, norm.eps)

    def _gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        return swiglu(gate_up)

    def _attend(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, rotation: Rotation, paged: Attention
    ) -> torch.Tensor:
        assert isinstance(paged, PagedAttention)
        cache, heads = self.kv_cache, self.num_heads
        scales = cache.key_scales[layer_idx], cache.value_scales[layer_idx]
        qkv = layer.qkv(normed)
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
