"""Runs models that attend over latents on a GPU: everything between the matrix products by our Triton kernels.

Imported only where Triton is installed. Of a decode step's attention, a layer launches the products, one kernel for
rotations and latents, one each for index keys, index queries, scores and selection, and attention with its combination.
"""

from typing import Any, cast

import torch

from worker.attention.latent.kernel import KernelLatentAttention
from worker.attention.latent.selection import Selected, pieces
from worker.attention.paged import Attention
from worker.kernels.gpu.latent.index_writes import IndexNorm
from worker.runners.latent.parts import LatentLayer
from worker.runners.latent.runner import LatentRunner
from worker.runners.parts.layers import Layer
from worker.runners.parts.rotation import Rotation
from worker.runners.triton_decoder import TritonDecoderRunner

PIECE_TOKENS = 1024  # of a chunk whose heads are attended to at a time: what all of them see is large


class TritonLatentRunner(LatentRunner, TritonDecoderRunner):
    """A LatentRunner with one kernel where torch has several."""

    def recorded_attention(self, tensors: Any, max_queries: int) -> Attention:
        """See ModelRunner."""
        return cast("Attention", KernelLatentAttention(self.kv_cache, tensors))

    def _attend(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, rotation: Rotation, paged: Attention
    ) -> torch.Tensor:
        """See LatentRunner."""
        assert isinstance(layer, LatentLayer)
        attention = cast("KernelLatentAttention", paged)
        queries, latents, index_keys = torch.split(layer.qkv(normed), layer.widths, dim=-1)
        index_queries = queries[:, :0]
        if layer.query_norm is not None and layer.queries is not None:
            queries = layer.queries(self._normed(queries, layer.query_norm))
            queries, index_queries = queries.tensor_split([layer.num_heads * layer.query_dim], dim=-1)
        heads = queries.view(len(queries), layer.num_heads, layer.query_dim)
        absorbed = queries.new_empty(len(queries), layer.num_heads, layer.spec.rank + layer.num_rotated)
        norm = layer.latent_norm.weight, layer.latent_norm.eps
        attention.rotate_and_write(layer_idx, heads, latents, norm, rotation, absorbed, interleaves=layer.interleaves)
        plain = heads[..., : layer.key_up.shape[1]].transpose(0, 1)
        torch.bmm(plain, layer.key_up, out=absorbed[..., : layer.spec.rank].transpose(0, 1))
        selected = attention.selected if layer.follows else None
        if (indexer := layer.indexer) is not None:
            key_norm = indexer.key_norm
            own = IndexNorm(key_norm.weight, key_norm.bias, key_norm.eps)
            attention.write_index(layer_idx, index_keys, own, rotation, interleaves=indexer.interleaves)
            of_heads = index_queries.view(len(queries), indexer.num_heads, indexer.dim)
            weights, interleaves = indexer.weights(normed), indexer.interleaves
            selected = attention.select(layer_idx, of_heads, weights, layer.spec, rotation, interleaves=interleaves)
        return self._values_of(layer_idx, layer, absorbed, selected, attention)

    def _values_of(
        self,
        layer_idx: int,
        layer: LatentLayer,
        queries: torch.Tensor,
        selected: Selected | None,
        attention: KernelLatentAttention,
    ) -> torch.Tensor:
        """What the heads attend to, [T, heads * value's dim]."""
        out = queries.new_empty(*queries.shape[:2], layer.value_up.shape[2])
        for piece in pieces(len(queries), PIECE_TOKENS):
            sums = attention.attend(layer_idx, queries[piece], selected, layer.spec, piece.start)
            torch.bmm(sums.transpose(0, 1), layer.value_up, out=out[piece].transpose(0, 1))
        return out.flatten(1)
