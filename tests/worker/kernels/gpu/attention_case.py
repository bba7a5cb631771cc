"""A step over a paged cache with every block in a random place, and its attention written plainly in float64."""

from dataclasses import dataclass
from typing import Any

import torch

from worker.kernels.gpu.paged_attention import Pages, Tiles, attend

FP8 = torch.float8_e4m3fn
FP8_NAN = 0x7F


@dataclass(frozen=True)
class Case:
    """Sequences with so many queries and keys each. `tile_queries` 0: a tile for each sequence."""

    num_queries: tuple[int, ...] = (1, 1, 1)
    num_keys: tuple[int, ...] = (40, 1, 90)
    tile_queries: int = 0
    num_splits: int = 1
    usual_splits: int | None = None
    heads: int = 4
    kv_heads: int = 2
    key_dim: int = 16
    value_dim: int = 0  # 0: as of the keys
    page: int = 16
    dtype: torch.dtype = torch.float32
    is_fp8: bool = False
    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False


class Step:
    """The tensors of a case. What belongs to no sequence is NaN: the rest of last blocks, and unused blocks."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.make = torch.Generator().manual_seed(0)
        num_seqs, width = len(case.num_keys), max(case.num_keys) // case.page + 2
        order = torch.randperm(num_seqs * width + 3, generator=self.make)
        self.table = order[: num_seqs * width].view(num_seqs, width).int()
        self.starts = [0]
        for number in case.num_queries:
            self.starts.append(self.starts[-1] + number)
        self.keys = self.pool(len(order), case.key_dim)
        self.values = self.pool(len(order), case.value_dim or case.key_dim)
        scales = torch.tensor([0.5, 1.5, 0.75, 1.25])[: case.kv_heads]
        self.key_scales, self.value_scales = (scales, scales.flip(0)) if case.is_fp8 else (None, None)
        self.sinks = torch.randn(case.heads, generator=self.make) if case.has_sinks else None
        wide = torch.randn(self.starts[-1], case.heads + 2 * case.kv_heads, case.key_dim, generator=self.make)
        self.query = wide.to(case.dtype)[:, : case.heads]  # a view into qkv

    def pool(self, num_blocks: int, dim: int) -> torch.Tensor:
        """[kv_heads, blocks, page, dim] in a GPU's order of memory, [blocks, kv_heads, page, dim]."""
        case = self.case
        numbers = torch.randn(num_blocks, case.kv_heads, case.page, dim, generator=self.make)
        numbers = numbers.to(FP8 if case.is_fp8 else case.dtype)
        unused = torch.ones(num_blocks, case.page, dtype=torch.bool)
        for row, length in zip(self.table, case.num_keys, strict=True):
            for at in range(length):
                unused[row[at // case.page], at % case.page] = False
        if case.is_fp8:
            numbers.view(torch.uint8).transpose(1, 2)[unused] = FP8_NAN
        else:
            numbers.transpose(1, 2)[unused] = torch.nan
        return numbers.transpose(0, 1)

    def tiles(self) -> Tiles:
        """Tiles with one of -1 in front."""
        case, starts = self.case, torch.tensor(self.starts, dtype=torch.int32)
        if not case.tile_queries:
            return Tiles(starts, len(case.num_keys), max(case.num_queries))
        places = [(-1, 0)]
        for row, number in enumerate(case.num_queries):
            places += [(row, start) for start in range(0, number, case.tile_queries)]
        rows, firsts = torch.tensor(places, dtype=torch.int32).T.contiguous()
        return Tiles(starts, len(places), case.tile_queries, rows, firsts)

    def attended(self, tiles: Tiles | None = None, **changes: Any) -> torch.Tensor:
        """What the kernel computes, [T, heads, value_dim]; what it does not write stays NaN."""
        case = self.case
        output = torch.full((*self.query.shape[:2], self.values.shape[-1]), torch.nan, dtype=case.dtype)
        num_keys = torch.tensor(case.num_keys, dtype=torch.int32)
        pages = Pages(self.keys, self.values, self.key_scales, self.value_scales, self.table, num_keys)
        options = {"window": case.window, "softcap": case.softcap, "sinks": self.sinks}
        options |= {"num_splits": case.num_splits, "usual_splits": case.usual_splits}
        attend(self.query, pages, tiles or self.tiles(), output, scale=case.key_dim**-0.5, **(options | changes))
        return output

    def expected(self) -> torch.Tensor:
        """[T, heads, value_dim] in float64."""
        case = self.case
        output = torch.zeros(*self.query.shape[:2], self.values.shape[-1], dtype=torch.float64)
        for row, length in enumerate(case.num_keys):
            keys = self.of_sequence(self.keys, row, self.key_scales)
            values = self.of_sequence(self.values, row, self.value_scales)
            for at in range(self.starts[row], self.starts[row + 1]):
                position = length - self.starts[row + 1] + at
                first = 0 if case.window is None else max(0, position - case.window + 1)
                seen = slice(first, position + 1)
                for head in range(case.heads):
                    shared = head // (case.heads // case.kv_heads)
                    output[at, head] = self.of_query(keys[shared, seen], values[shared, seen], at, head)
        return output

    def of_sequence(self, pool: torch.Tensor, row: int, scales: torch.Tensor | None) -> torch.Tensor:
        """[kv_heads, num_keys, dim] in float64."""
        own = pool.float()[:, self.table[row]].flatten(1, 2)[:, : self.case.num_keys[row]].double()
        return own if scales is None else own * scales[:, None, None].double()

    def of_query(self, keys: torch.Tensor, values: torch.Tensor, at: int, head: int) -> torch.Tensor:
        scores = keys @ self.query[at, head].double() * self.case.key_dim**-0.5
        if self.case.softcap is not None:
            scores = torch.tanh(scores / self.case.softcap) * self.case.softcap
        if self.sinks is not None:
            scores = torch.cat([scores, self.sinks[head : head + 1].double()])
        weights: torch.Tensor = scores.softmax(0)[: len(values)] @ values
        return weights
