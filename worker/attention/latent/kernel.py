"""Attention over latents by our own GPU kernels, for ragged steps and for recorded ones."""

from collections.abc import Sequence as Seq

import torch

from worker.attention.kernel import StepTensors, adjacent, tensors_of
from worker.attention.latent.selection import MAX_ROW_SCORES, Selected, pieces
from worker.attention.latent.spec import LatentSpec
from worker.kernels.gpu.latent.attention import LatentKeys, attend_latents
from worker.kernels.gpu.latent.index_scores import IndexPages, index_scores
from worker.kernels.gpu.latent.index_writes import IndexNorm, Rotation, rounded_index, write_index
from worker.kernels.gpu.latent.places import token_places
from worker.kernels.gpu.latent.selection import select_slots
from worker.kernels.gpu.latent.writes import rotate_and_write_latents
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

LINE = 16  # numbers of scores that are read at a time


class KernelLatentAttention:
    """LatentAttention by kernels that do not wait for the CPU: what they launch depends on the step's shape alone."""

    def __init__(self, kv_cache: KVCache, tensors: StepTensors, max_keys: int | None = None) -> None:
        """`max_keys`: of a sequence in this step, or ever if it is recorded; None: as many as the block table holds."""
        self.kv_cache = kv_cache
        self.slots = tensors.slots
        self.tensors = tensors
        self.max_keys = max_keys or tensors.block_table.shape[1] * kv_cache.block_size
        self.selected: Selected | None = None  # by the last layer that chose keys
        self._rows = self._keys = torch.empty(0)  # of each token, from the first layer on

    @classmethod
    def of_rows(cls, kv_cache: KVCache, rows: Seq[ScheduledSequence], device: torch.device) -> "KernelLatentAttention":
        """For a ragged step."""
        return cls(kv_cache, *tensors_of(kv_cache, rows, device))

    def write(self, layer_idx: int, latents: torch.Tensor, index_keys: torch.Tensor | None) -> None:
        """See LatentAttention. The first layer's write comes before all else of a step."""
        self._place(layer_idx)
        by_slot = self.kv_cache.keys[layer_idx][0].view(-1, latents.shape[1])
        by_slot.index_copy_(0, self.slots, latents.to(by_slot.dtype))
        if index_keys is not None:
            write_index(adjacent(index_keys), self.slots, self.kv_cache.values[layer_idx], None, None)

    def rotate_and_write(
        self,
        layer_idx: int,
        query: torch.Tensor,
        latents: torch.Tensor,
        norm: tuple[torch.Tensor, float],
        rotation: Rotation,
        out: torch.Tensor,
        *,
        interleaves: bool,
    ) -> None:
        """As write() of latents that are still to be normed, by weights and eps, and rotated; see the kernel."""
        self._place(layer_idx)
        pool = self.kv_cache.keys[layer_idx]
        rotate_and_write_latents(query, latents, *norm, rotation, self.slots, pool, out, interleaves=interleaves)

    def write_index(
        self, layer_idx: int, keys: torch.Tensor, norm: IndexNorm, rotation: Rotation, *, interleaves: bool = False
    ) -> None:
        """Index keys [T, dim] that are still to be normed and rotated."""
        write_index(keys, self.slots, self.kv_cache.values[layer_idx], norm, rotation, interleaves=interleaves)

    def select(
        self,
        layer_idx: int,
        index_queries: torch.Tensor,
        head_weights: torch.Tensor,
        spec: LatentSpec,
        rotation: Rotation | None = None,
        *,
        interleaves: bool = False,
    ) -> Selected | None:
        """See LatentAttention; with a `rotation`, queries are still to be rotated. None: no token can see too many."""
        if spec.topk is None or self.max_keys <= spec.topk:
            return None
        pages = self._index_pages(layer_idx)
        queries, weights = rounded_index(
            index_queries, head_weights, rotation, is_8_bit=pages.is_8_bit, interleaves=interleaves
        )
        num_tokens, width = len(queries), -(-self.max_keys // LINE) * LINE
        slots = torch.empty(num_tokens, spec.topk, dtype=torch.int32, device=queries.device)
        counts = torch.empty(num_tokens, dtype=torch.int32, device=queries.device)
        for piece in pieces(num_tokens, MAX_ROW_SCORES // width):
            scores = torch.empty(piece.stop - piece.start, width, dtype=torch.float32, device=queries.device)
            index_scores(queries, weights, pages, scores, piece.start, spec.topk)
            select_slots(scores, pages, slots, counts, piece.start)
        self.selected = Selected(slots, counts)
        return self.selected

    def attend(
        self, layer_idx: int, queries: torch.Tensor, selected: Selected | None, spec: LatentSpec, first: int = 0
    ) -> torch.Tensor:
        """See LatentAttention. Queries of the tokens from `first` on; 0 for tokens of no sequence."""
        queries = adjacent(queries)
        own = slice(first, first + len(queries))
        pool, table = self.kv_cache.keys[layer_idx], self.tensors.block_table
        if selected is None:
            keys, most = LatentKeys(pool, self._keys[own], None, table, self._rows[own]), self.max_keys
        else:
            keys, most = LatentKeys(pool, selected.counts[own], selected.slots[own]), selected.slots.shape[1]
        output = queries.new_empty(*queries.shape[:2], spec.rank)
        attend_latents(queries, keys, output, scale=spec.scale, max_keys=most)
        return output

    def _place(self, layer_idx: int) -> None:
        if layer_idx == 0:
            tensors = self.tensors
            self._rows, self._keys = token_places(tensors.query_starts, tensors.num_keys, len(self.slots))

    def _index_pages(self, layer_idx: int) -> IndexPages:
        tensors = self.tensors
        pool = self.kv_cache.values[layer_idx]
        return IndexPages(pool, tensors.block_table, tensors.query_starts, self._rows, self._keys)
