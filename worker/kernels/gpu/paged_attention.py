"""Attention over paged keys and values: decode steps, prompt chunks and the verification of drafts, by one kernel.

A program computes a tile of queries for one KV head: the query heads that share it are packed as rows, query by query.
The keys of a tile may be split over several programs, whose parts split_keys.py puts together.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.attention_loop import attend_keys, place_of, share_of
from worker.kernels.gpu.runtime import begin, is_interpreted, overlap
from worker.kernels.gpu.split_keys import combine_kernel, combine_shape

FP8 = torch.float8_e4m3fn
LOG2_E = 1.4426950408889634  # exponentials are computed as powers of two
MIN_ROWS = 16  # of a matrix product
WIDE_ROWS = 128  # queries times heads in a tile of a prompt chunk, which two groups of four warps multiply
FEW_ROWS = 64  # in tiles of chunks that need no more
FLOAT32_ROWS = 32
FEW_PROGRAMS = 256  # of the combination: more would crowd beside attention, which is still running

# of arguments that change from step to step, a value of 1 or an address makes no other kernel
VARYING = ("num_places", "window", "usual_splits", "table_row")
TABLES = ("block_table", "num_keys", "query_starts", "tile_rows", "tile_starts")


@dataclass(frozen=True, slots=True)
class Pages:
    """A layer's pools, [kv_heads, blocks, block_size, dim] each, adjacent in dim only; [kv_heads] scales for fp8."""

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None
    value_scales: torch.Tensor | None
    block_table: torch.Tensor  # [N, W] int32
    num_keys: torch.Tensor  # [N] int32


@dataclass(frozen=True, slots=True)
class Tiles:
    """The queries of a launch. Without `rows`, tile n is sequence n, and is skipped if it has more than num_queries."""

    query_starts: torch.Tensor  # [N + 1] int32
    count: int
    num_queries: int  # of a tile, at most
    rows: torch.Tensor | None = None  # [count] int32: sequence of each tile, -1: none
    starts: torch.Tensor | None = None  # [count] int32: first query of each tile, counted in its sequence


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=TABLES)
def attention_kernel(
    query, out, log_sums, keys, values, key_scales, value_scales, sinks,
    block_table, num_keys, query_starts, tile_rows, tile_starts, scale, softcap, window, num_places, usual_splits,
    query_token, query_head, table_row, key_head, key_block, key_token, value_head, value_block, value_token,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, SHARED: tl.constexpr, TILE_QUERIES: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr, IN_FLOAT32: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """`out`: [T, heads, dim]; with `log_sums` [splits, places, heads] parts in float32, [splits, places, heads, dim].

    Each tile has TILE_QUERIES places, so parts take the memory of their own launch, not of all T tokens.

    Keys are multiplied in two blocks of dimensions, BLOCK_D and BLOCK_R, powers of two; BLOCK_R 0: in one.
    """
    begin(OVERLAPS)
    head, tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, first, count, position = place_of(tile, tile_rows, tile_starts, query_starts, num_keys, TILE_QUERIES)
    low, high = share_of(split, tl.num_programs(2), usual_splits, position, count, window, BLOCK_N)
    if (count <= 0) | (low >= high):
        return
    m = tl.arange(0, BLOCK_M)
    within = tl.minimum(m // SHARED, count - 1)  # rows beyond the last query repeat it and are not stored
    own_head = head * SHARED + m % SHARED
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.full([BLOCK_M], 0.0, tl.float32)
    if sinks is not None:
        if split == 0:
            highest = tl.load(sinks + own_head).to(tl.float32) * 1.4426950408889634
            total += 1.0
    if key_scales is not None:
        scale *= tl.load(key_scales + head)
    highest, total, sums = attend_keys(
        query + (first + within).to(tl.int64)[:, None] * query_token + own_head[:, None] * query_head,
        keys + head.to(tl.int64) * key_head, values + head.to(tl.int64) * value_head,
        block_table + row.to(tl.int64) * table_row, low, high, position, within, highest, total,
        scale, softcap, window, key_block, key_token, value_block, value_token,
        KEY_DIM, VALUE_DIM, PAGE, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_R, BLOCK_V, IN_FLOAT32,
    )  # fmt: skip
    total = tl.where(total == 0, 1.0, total)  # a part without visible keys: 0, and -inf as its maximum
    sums /= total[:, None]
    if value_scales is not None:
        sums *= tl.load(value_scales + head)
    place = first + within
    if log_sums is not None:
        place = split * num_places + tile * TILE_QUERIES + within
    at = place.to(tl.int64) * tl.num_programs(0) * SHARED + own_head
    is_query = m // SHARED < count
    if log_sums is not None:
        tl.store(log_sums + at, highest + tl.log2(total), mask=is_query)
    v = tl.arange(0, BLOCK_V)
    mask = is_query[:, None] & (v[None, :] < VALUE_DIM)
    tl.store(out + at[:, None] * VALUE_DIM + v[None, :], sums.to(out.dtype.element_ty), mask=mask)


def attend(
    query: torch.Tensor,
    pages: Pages,
    tiles: Tiles,
    out: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    num_splits: int = 1,
    usual_splits: int | None = None,
) -> None:
    """Attend with the tiles' queries; `query` [T, heads, key_dim] has any strides but the last, `out` is contiguous.

    A query attends to the keys up to its own position, and with `window` to so many of them at most. `sinks` [heads].
    `num_splits` programs share the keys of a tile; `usual_splits` do if only a long sequence needs more.
    """
    usual_splits = usual_splits or num_splits
    _, num_heads, key_dim = query.shape
    kv_heads, _, page, value_dim = pages.values.shape
    if tiles.count == 0:
        return
    shape = launch_shape(key_dim, value_dim, pages.keys.dtype, num_heads // kv_heads, tiles.num_queries)
    parts, log_sums, num_places = out, None, tiles.count * tiles.num_queries
    if num_splits > 1:
        shape_of_parts = num_splits, num_places, num_heads
        parts = torch.empty(*shape_of_parts, value_dim, dtype=torch.float32, device=out.device)
        log_sums = torch.empty(shape_of_parts, dtype=torch.float32, device=out.device)
    values = pages.values.view(torch.int16) if pages.values.dtype == FP8 else pages.values
    of_tiles = (pages.num_keys, tiles.query_starts, tiles.rows, tiles.starts)
    attention_kernel[(kv_heads, tiles.count, num_splits)](
        query, parts, log_sums, pages.keys, values, pages.key_scales, pages.value_scales, sinks,
        pages.block_table, *of_tiles, scale * LOG2_E, softcap and softcap * LOG2_E, window, num_places,
        usual_splits, *query.stride()[:2], pages.block_table.stride(0), *pages.keys.stride()[:3], *values.stride()[:3],
        KEY_DIM=key_dim, VALUE_DIM=value_dim, SHARED=num_heads // kv_heads, TILE_QUERIES=tiles.num_queries, PAGE=page,
        **shape, **overlap(out.device, starts_early=False),
    )  # fmt: skip
    if log_sums is not None:
        combine_kernel[(num_heads, num_places)](
            parts, log_sums, out, *of_tiles, window, num_splits, usual_splits, VALUE_DIM=value_dim,
            TILE_QUERIES=tiles.num_queries, BLOCK_N=shape["BLOCK_N"], **combine_shape(num_splits, value_dim),
            **overlap(out.device, starts_early=num_heads * num_places <= FEW_PROGRAMS),
        )  # fmt: skip


def tile_queries(num_shared: int, dtype: torch.dtype, longest: int | None = None) -> int:
    """Queries in a tile of a prompt chunk where so many heads share keys. `longest` chunk of the step, if known.

    One of two numbers, since each is compiled for.
    """
    if dtype == torch.float32:
        rows = FLOAT32_ROWS
    else:
        rows = FEW_ROWS if longest is not None and longest * num_shared <= FEW_ROWS else WIDE_ROWS
    return max(1, rows // num_shared)


def launch_shape(
    key_dim: int, value_dim: int, dtype: torch.dtype, num_shared: int, num_queries: int
) -> dict[str, int | bool]:
    """The kernel's blocks for a cache of `dtype` and a tile of `num_queries` of each of the `num_shared` heads.

    docs/kernels.md has the registers that its warps and stages take.
    """
    block_d = max(MIN_ROWS, 1 << (key_dim.bit_length() - 1))
    rest = key_dim - block_d
    block_m = max(MIN_ROWS, triton.next_power_of_2(num_shared * num_queries))
    widest = max(key_dim, value_dim)
    if dtype == torch.float32:  # multiplied without tensor cores
        block_n = 16
    elif block_m >= WIDE_ROWS:
        block_n = 64 if widest <= 192 else 32
    else:
        block_n = 64 if widest <= 128 else 32 if widest <= 256 else 16
    takes_many_registers = widest > 192
    num_stages = 2 if block_m >= WIDE_ROWS and widest > 128 else 3
    if dtype.itemsize == 1 and block_m < WIDE_ROWS:
        num_stages = 4  # as many bytes on their way as with 16 bits
    return {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_D": block_d,
        "BLOCK_R": max(MIN_ROWS, triton.next_power_of_2(rest)) if rest > 0 else 0,
        "BLOCK_V": max(MIN_ROWS, triton.next_power_of_2(value_dim)),
        "IN_FLOAT32": is_interpreted() or dtype == torch.float32,
        "num_warps": 8 if block_m >= WIDE_ROWS or takes_many_registers else 4,
        "num_stages": num_stages,
    }
