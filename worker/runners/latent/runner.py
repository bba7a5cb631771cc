"""Runs models that attend over latents: a DecoderRunner with another attention."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Any, cast

import torch

from worker.attention.latent.attention import LatentAttention
from worker.attention.latent.selection import Selected
from worker.attention.latent.spec import LatentSpec
from worker.attention.paged import Attention
from worker.attention.spec import AttentionSpec
from worker.kernels.adapters.linear import without_adapters
from worker.kernels.elementwise import rotate
from worker.kernels.fused import PackedBefore
from worker.kernels.quantized import Quantization
from worker.runners.decoder import DecoderRunner
from worker.runners.latent.parts import Indexer, LatentLayer, latent_layer_of, latent_parts_of
from worker.runners.parts.layers import Layer
from worker.runners.parts.mlp import Product
from worker.runners.parts.rotation import Rotation


class LatentRunner(DecoderRunner):
    """The cache holds each token's latent as its key, and its index key, where there is an indexer, as its value."""

    takes_other_shapes = True  # index keys are kept by layers that choose by them

    def _layers_of(
        self, modules: Seq[Any], specs: Seq[AttentionSpec], quantization: Quantization | PackedBefore | None
    ) -> list[Layer]:
        """See DecoderRunner. `specs`: LatentSpecs."""
        return [
            latent_layer_of(module, cast("LatentSpec", spec), self.rotary.kind_of(layer_idx), quantization)
            for layer_idx, (module, spec) in enumerate(zip(modules, specs, strict=True))
        ]

    def _count_heads(self, attention: Any) -> int:
        return int(attention.num_heads)

    def _parts_of(self, module: Any) -> Iterable[Product]:
        return latent_parts_of(module)

    @property
    def products(self) -> list[Any]:
        """See DecoderRunner."""
        found: list[Any] = []
        for layer in cast("list[LatentLayer]", self.layers):
            found += (*layer.attention_products, *layer.mlp.products)
        return [*map(without_adapters, found), self.head]

    def _ups(self, layer_idx: int) -> list[torch.Tensor]:
        """The matrices that make keys and values of a layer's latents."""
        layer = cast("LatentLayer", self.layers[layer_idx])
        return [layer.key_up, layer.value_up]

    @property
    def made(self) -> list[Any]:
        """All that is made of the model's weights, in the order in which it is: what PackedBefore gives out again."""
        found: list[Any] = []
        for layer_idx, layer in enumerate(cast("list[LatentLayer]", self.layers)):
            scoring = [] if layer.indexer is None else [layer.indexer.head_weights]
            found += (*layer.attention_products, *self._ups(layer_idx), *layer.mlp.products, *scoring)
        return [*map(without_adapters, found), self.head]

    def _attend(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, rotation: Rotation, paged: Attention
    ) -> torch.Tensor:
        """See DecoderRunner. The latents and index keys are written to the cache."""
        assert isinstance(layer, LatentLayer)
        attention = cast("LatentAttention", paged)
        queries, latents, index_keys = torch.split(layer.qkv(normed), layer.widths, dim=-1)
        latents = self._latents(layer, latents, rotation)
        index_queries = queries[:, :0]
        if layer.query_norm is not None and layer.queries is not None:
            queries = layer.queries(self._normed(queries, layer.query_norm))
            queries, index_queries = queries.tensor_split([layer.num_heads * layer.query_dim], dim=-1)
        selected = attention.selected if layer.follows else None
        if (indexer := layer.indexer) is None:
            attention.write(layer_idx, latents, None)
        else:
            attention.write(layer_idx, latents, self._index_keys(layer, indexer, index_keys, rotation))
            rotated = self._index_queries(layer, indexer, index_queries, rotation)
            selected = attention.select(layer_idx, rotated, indexer.weights(normed), layer.spec)
        return self._heads_of(layer_idx, layer, self._absorbed(layer, queries, rotation), selected, attention)

    def _latents(self, layer: LatentLayer, latents: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """[T, width] as they are kept: normed, and the last numbers rotated."""
        plain, rotated = latents.tensor_split([layer.spec.rank], dim=-1)
        return torch.cat(
            [self._normed(plain, layer.latent_norm), self._turned(layer, rotated[:, None], rotation)[:, 0]], 1
        )

    def _absorbed(self, layer: LatentLayer, queries: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Queries of all heads, side by side -> [T, heads, width of a latent], to be multiplied by latents."""
        heads = queries.view(len(queries), layer.num_heads, layer.query_dim)
        plain, rotated = heads.tensor_split([layer.key_up.shape[1]], dim=-1)
        out = queries.new_empty(len(queries), layer.num_heads, layer.spec.rank + layer.num_rotated)
        out[..., : layer.spec.rank] = torch.bmm(plain.transpose(0, 1).contiguous(), layer.key_up).transpose(0, 1)
        out[..., layer.spec.rank :] = self._turned(layer, rotated, rotation)
        return out

    def _heads_of(
        self,
        layer_idx: int,
        layer: LatentLayer,
        queries: torch.Tensor,
        selected: Selected | None,
        attention: LatentAttention,
    ) -> torch.Tensor:
        """What the heads attend to, [T, heads * value's dim]."""
        sums = attention.attend(layer_idx, queries, selected, layer.spec)
        return torch.bmm(sums.transpose(0, 1), layer.value_up).transpose(0, 1).flatten(1)

    def _turned(self, layer: LatentLayer, heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """A rotated copy of [T, n, num_rotated]."""
        heads = in_halves(heads) if layer.interleaves else heads.clone()
        return rotate(heads, *rotation)

    def _index_keys(
        self, layer: LatentLayer, indexer: Indexer, index_keys: torch.Tensor, rotation: Rotation
    ) -> torch.Tensor:
        """[T, dim], normed and the first numbers rotated."""
        normed = indexer.normed(index_keys)
        self._turn_first(layer, indexer, normed[:, None], rotation)
        return normed

    def _index_queries(
        self, layer: LatentLayer, indexer: Indexer, queries: torch.Tensor, rotation: Rotation
    ) -> torch.Tensor:
        """[T, heads, dim], the first numbers of each rotated in place."""
        heads = queries.view(len(queries), indexer.num_heads, indexer.dim)
        self._turn_first(layer, indexer, heads, rotation)
        return heads

    def _turn_first(self, layer: LatentLayer, indexer: Indexer, heads: torch.Tensor, rotation: Rotation) -> None:
        """Rotate the first numbers of [T, n, dim] in place."""
        first = heads[..., : layer.num_rotated]
        if indexer.interleaves:
            first.copy_(in_halves(first))
        rotate(first, *rotation)


def in_halves(heads: torch.Tensor) -> torch.Tensor:
    """[..., n] of which neighbours are rotated together, with those of each pair in two halves.

    They stay so, in queries and keys alike, whose products are the same.
    """
    return heads.view(*heads.shape[:-1], -1, 2).transpose(-1, -2).flatten(-2)
