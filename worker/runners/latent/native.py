"""Runs models that attend over latents on a CPU: everything between the matrix products by our C kernels."""

from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import cached_property
from typing import cast

import torch

from worker.attention.latent.attention import LatentAttention
from worker.attention.latent.index_keys import write_index_keys
from worker.attention.latent.selection import Selected
from worker.attention.spec import AttentionSpec
from worker.runners.decoder import signed
from worker.runners.latent.parts import LatentLayer
from worker.runners.latent.runner import LatentRunner
from worker.runners.parts.layers import Layer
from worker.runners.recorded.native import LANES, NativeBatch, NativeRunner
from worker.runners.recorded.on_cpu import NativeInputs

MAX_ROWS, MAX_WIDTH, MAX_RANK = 128, 640, 512  # of worker/kernels/latents.c
MAX_PARTS = 16  # among which the keys of a tile are shared
PARTS_OF_THREAD = 4  # so that threads end together


class LatentBatch(NativeBatch):
    """A NativeBatch that may be attended to by torch too, where keys are selected."""

    @cached_property
    def by_torch(self) -> LatentAttention:
        return LatentAttention(self.kv_cache, self.rows, self.slots.device)


class NativeLatentRunner(LatentRunner, NativeRunner):
    """A LatentRunner with one kernel where torch has several. Torch selects keys: such steps are not recorded."""

    batch_type = LatentBatch

    def _prepare_attention(self, specs: Seq[AttentionSpec]) -> None:
        """See NativeRunner. The layers' own matrices are freed: panels take their place."""
        word = 2 if self.embedding.dtype == torch.bfloat16 and self.kernels.can_multiply_pairs() else 1
        self.ups = [
            tuple(in_panels(matrix.transpose(1, 2), word) for matrix in (layer.key_up, layer.value_up))
            for layer in self.latent_layers
        ]
        self.layers = [  # their shapes stay
            replace(layer, key_up=layer.key_up.to("meta"), value_up=layer.value_up.to("meta"))
            for layer in self.latent_layers
        ]

    @property
    def latent_layers(self) -> list[LatentLayer]:
        return cast("list[LatentLayer]", self.layers)

    def _can_attend(self) -> bool:
        """See NativeRunner."""
        return self.num_heads <= MAX_ROWS and all(
            layer.spec.rank % (2 * LANES) == layer.num_rotated % (2 * LANES) == 0
            and layer.key_up.shape[1] % LANES == layer.value_up.shape[2] % LANES == 0
            and (layer.query_norm is None or layer.query_norm.shape[0] % LANES == 0)
            and layer.spec.rank <= MAX_RANK
            and layer.spec.rank + layer.num_rotated <= MAX_WIDTH
            for layer in self.latent_layers
        )

    def _ups(self, layer_idx: int) -> list[torch.Tensor]:
        """See LatentRunner."""
        return [out_of_panels(panels).transpose(1, 2).contiguous() for panels in self.ups[layer_idx]]

    @property
    def tile_tokens(self) -> int:
        """See NativeRunner."""
        return MAX_ROWS // self.num_heads

    @property
    def can_replay(self) -> bool:
        """See NativeRunner."""
        return super().can_replay and all(layer.indexer is None for layer in self.latent_layers)

    def _attended(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, inputs: NativeInputs, paged: NativeBatch
    ) -> torch.Tensor:
        """See NativeRunner."""
        assert isinstance(layer, LatentLayer)
        qkv = layer.qkv(normed)
        queries = qkv  # and more beside them
        if layer.query_norm is not None and layer.queries is not None:
            queries = layer.queries(self._query_latents(layer, qkv))
        absorbed = self._write_and_absorb(layer_idx, layer, qkv, queries, inputs)
        selected = None
        if layer.indexer is not None:
            selected = self._selected(layer_idx, layer, normed, qkv, queries, inputs, cast("LatentBatch", paged))
        elif layer.follows:
            selected = cast("LatentBatch", paged).by_torch.selected
        if selected is None:
            sums = self._attend_latents(layer_idx, layer, absorbed, inputs)
        else:
            sums = cast("LatentBatch", paged).by_torch.attend(layer_idx, absorbed, selected, layer.spec)
        return self._values(layer_idx, layer, sums, len(qkv))

    def _query_latents(self, layer: LatentLayer, qkv: torch.Tensor) -> torch.Tensor:
        """Normed."""
        norm = layer.query_norm
        assert norm is not None
        num_rows, stride = qkv.shape
        out = qkv.new_empty(num_rows, norm.shape[0])
        self.kernels.norm_rows(
            qkv.data_ptr(), stride, norm.weight.data_ptr(), out.data_ptr(), num_rows, norm.shape[0], norm.eps
        )
        return out

    def _write_and_absorb(
        self, layer_idx: int, layer: LatentLayer, qkv: torch.Tensor, queries: torch.Tensor, inputs: NativeInputs
    ) -> torch.Tensor:
        """Writes the latents to the cache; returns queries [T, heads, width], to be multiplied by latents."""
        num_tokens, heads, rank = len(inputs.slots), layer.num_heads, layer.spec.rank
        num_plain, width = layer.key_up.shape[1], rank + layer.num_rotated
        key_up, _ = self.ups[layer_idx]
        out = qkv.new_empty(num_tokens, heads, width)
        self.kernels.write_latents(
            qkv.data_ptr() + layer.widths[0] * qkv.element_size(), qkv.shape[1], queries.data_ptr(), queries.shape[1],
            inputs.cos.data_ptr(), inputs.sin.data_ptr(), layer.latent_norm.weight.data_ptr(), layer.latent_norm.eps,
            inputs.slots.data_ptr(), self.kv_cache.keys[layer_idx].data_ptr(), out.data_ptr(), num_tokens, heads,
            layer.query_dim, rank, layer.num_rotated, layer.interleaves,
        )  # fmt: skip
        self.kernels.multiply_heads(
            key_up.data_ptr(), queries.data_ptr(), queries.shape[1], layer.query_dim, out.data_ptr(), heads * width,
            width, num_tokens, heads, num_plain, rank,
        )  # fmt: skip
        return out

    def _attend_latents(
        self, layer_idx: int, layer: LatentLayer, absorbed: torch.Tensor, inputs: NativeInputs
    ) -> torch.Tensor:
        """[T, heads, rank]: weighted sums of latents."""
        num_tokens, heads, width = absorbed.shape
        rank, num_items, items = layer.spec.rank, len(inputs.items), inputs.items
        num_parts = max(1, min(MAX_PARTS, PARTS_OF_THREAD * torch.get_num_threads() // num_items))
        max_rows = heads * int(items[:, 1].max())
        size = num_parts * max_rows * (rank + LANES) if num_parts > 1 else 0
        parts = absorbed.new_empty(num_items, size, dtype=torch.float32)
        out = absorbed.new_empty(num_tokens, heads, rank)
        self.kernels.attend_latents(
            absorbed.data_ptr(), self.kv_cache.keys[layer_idx].data_ptr(), self.kv_cache.block_size,
            inputs.tables.ctypes.data, items.ctypes.data, num_items, heads, width, rank, layer.spec.scale, num_parts,
            max_rows, parts.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return out

    def _values(self, layer_idx: int, layer: LatentLayer, sums: torch.Tensor, num_rows: int) -> torch.Tensor:
        """What the heads attend to, [num_rows, heads * value's dim]; 0 from the tokens on."""
        num_tokens, heads, rank = sums.shape
        dim = layer.value_up.shape[2]
        _, value_up = self.ups[layer_idx]
        out = sums.new_empty(num_rows, heads * dim)
        if num_tokens < num_rows:
            out[num_tokens:] = 0
        self.kernels.multiply_heads(
            value_up.data_ptr(), sums.data_ptr(), heads * rank, rank, out.data_ptr(), heads * dim, dim, num_tokens,
            heads, rank, dim,
        )  # fmt: skip
        return out

    def _selected(
        self,
        layer_idx: int,
        layer: LatentLayer,
        normed: torch.Tensor,
        qkv: torch.Tensor,
        queries: torch.Tensor,
        inputs: NativeInputs,
        paged: LatentBatch,
    ) -> Selected | None:
        """Writes the index keys; returns the keys of each token, None for all."""
        num_tokens, indexer = len(inputs.slots), layer.indexer
        assert indexer is not None
        rotation = signed(inputs.cos[:num_tokens], inputs.sin[:num_tokens])
        index_keys = qkv[:num_tokens, sum(layer.widths[:2]) :]
        keys = self._index_keys(layer, indexer, index_keys, rotation)
        write_index_keys(self.kv_cache.values[layer_idx], inputs.slots, keys)
        if inputs.items[:, 1:3].sum(axis=1).max() <= (layer.spec.topk or 0):
            return None
        own = queries[:num_tokens, layer.num_heads * layer.query_dim :]
        rotated = self._index_queries(layer, indexer, own, rotation)
        return paged.by_torch.select(layer_idx, rotated, indexer.weights(normed[:num_tokens]), layer.spec)


def in_panels(weights: torch.Tensor, word: int) -> torch.Tensor:
    """[heads, out, in] as worker/kernels/head_products.c reads them."""
    heads, num_out, num_in = weights.shape
    panels = weights.reshape(heads, num_out // LANES, LANES, num_in // word, word)
    return panels.transpose(2, 3).contiguous()


def out_of_panels(panels: torch.Tensor) -> torch.Tensor:
    """[heads, out, in], of which in_panels() made these."""
    heads, num_panels, num_words, lanes, word = panels.shape
    return panels.transpose(2, 3).reshape(heads, num_panels * lanes, num_words * word)
