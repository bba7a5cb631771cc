"""Index scores of tokens over the paged index keys of their sequences: what a key is worth to a token.

A program takes neighbouring tokens and every so many blocks of keys. Keys are rows of the products and index heads are
columns, so that the sum over heads stays within a few threads. Of pages in 8 bits both sides are multiplied in e4m3.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.runtime import begin, dot, is_interpreted, overlap
from worker.kernels.gpu.split_keys import num_multiprocessors

FP8 = torch.float8_e4m3fn
KEYS_BLOCK = 128
FLOAT32_KEYS = 32  # multiplied without tensor cores
TILE_QUERIES = 8  # tokens of a program, where there are many: they share the keys that it reads
FEW_TOKENS = 64  # that get a program each
WAVES = 4  # programs that are wanted for each multiprocessor

VARYING = ("first", "last", "table_row", "topk")
TABLES = ("block_table", "token_rows", "token_keys", "query_starts")


@dataclass(frozen=True, slots=True)
class IndexPages:
    """Where the tokens' keys are: the layer's pool of index keys, [1, blocks, size, dim], or + 4 bytes in 8 bits."""

    pool: torch.Tensor
    block_table: torch.Tensor  # [N, W] int32
    query_starts: torch.Tensor  # [N + 1] int32: the first token of each sequence
    token_rows: torch.Tensor  # [T] int32: the sequence of each token
    token_keys: torch.Tensor  # [T] int32: keys that it sees, the first ones; 0 for padding

    @property
    def is_8_bit(self) -> bool:
        return self.pool.dtype == torch.uint8


def index_scores(
    queries: torch.Tensor, head_weights: torch.Tensor, pages: IndexPages, scores: torch.Tensor, first: int, topk: int
) -> None:
    """Write `scores` [rows, most keys] float32 of the tokens from `first` on, each up to the keys that it sees.

    `queries` [T, heads, dim] and `head_weights` [T, heads], contiguous, as rounded_index() gives them for pages in 8
    bits. Tokens that see `topk` keys or fewer get no scores.
    """
    num_rows, most = scores.shape
    _, num_heads, dim = queries.shape
    if num_rows == 0:
        return
    shape = launch_shape(num_heads, dim, pages.pool.dtype, num_rows)
    tiles = triton.cdiv(num_rows, shape["TILE_QUERIES"])
    wanted = max(1, WAVES * num_multiprocessors(queries.device) // tiles)
    programs = min(wanted, triton.cdiv(most, shape["BLOCK_N"]))
    pool = pages.pool.view(FP8) if pages.is_8_bit else pages.pool
    scales = pages.pool[0].flatten(1).view(torch.float32) if pages.is_8_bit else None
    index_scores_kernel[(programs, tiles)](
        queries, head_weights, pool, scales, scores, pages.block_table, pages.query_starts, pages.token_rows,
        pages.token_keys, num_heads, first, first + num_rows, pages.block_table.stride(0), scores.stride(0), topk,
        DIM=dim, PAGE=pages.pool.shape[2], WIDTH=pages.pool.shape[3], **shape,
        **overlap(queries.device, starts_early=False),
    )  # fmt: skip


def launch_shape(num_heads: int, dim: int, dtype: torch.dtype, num_rows: int) -> dict[str, int | bool]:
    """The kernel's blocks, warps and stages for a launch of so many tokens."""
    is_float32 = dtype == torch.float32
    return {
        "TILE_QUERIES": 1 if num_rows <= FEW_TOKENS else TILE_QUERIES,
        "BLOCK_N": FLOAT32_KEYS if is_float32 else KEYS_BLOCK,
        "BLOCK_H": max(16, triton.next_power_of_2(num_heads)),
        "BLOCK_D": max(32, triton.next_power_of_2(dim)),
        "IN_FLOAT32": is_interpreted() or is_float32,
        "num_warps": 4,
        "num_stages": 3,
    }


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=TABLES)
def index_scores_kernel(
    queries, head_weights, pool, scales, scores, block_table, query_starts, token_rows, token_keys,
    num_heads, first, last, table_row, score_row, topk,
    DIM: tl.constexpr, PAGE: tl.constexpr, WIDTH: tl.constexpr, TILE_QUERIES: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, IN_FLOAT32: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Program (every so many blocks of keys, tile of tokens). `scales`: the pool in units of 4 bytes."""
    begin(OVERLAPS)
    program, num_programs = tl.program_id(0), tl.num_programs(0)
    start = first + tl.program_id(1) * TILE_QUERIES
    stop = tl.minimum(start + TILE_QUERIES, last)
    while start < stop:  # the tile's tokens of one sequence after those of another
        row = tl.load(token_rows + start)
        end = tl.minimum(stop, tl.load(query_starts + row + 1))
        end = tl.where(tl.load(token_keys + start) > 0, end, stop)  # padding is of no sequence
        num_keys = tl.load(token_keys + end - 1)
        num_keys = tl.where(num_keys > topk, num_keys, 0)
        table = block_table + row.to(tl.int64) * table_row
        for block in tl.range(program, tl.cdiv(num_keys, BLOCK_N), num_programs):
            n = block * BLOCK_N + tl.arange(0, BLOCK_N)
            page = tl.load(table + n // PAGE, mask=n < num_keys, other=0).to(tl.int64)
            keys, key_scales = load_keys(pool, scales, page, n % PAGE, n < num_keys, DIM, PAGE, WIDTH, BLOCK_D)
            for token in tl.range(start, end):
                score = scores_of(
                    queries, head_weights, token, keys, num_heads, DIM, BLOCK_H, BLOCK_D, BLOCK_N, IN_FLOAT32
                )
                if scales is not None:
                    score *= key_scales
                place = scores + (token - first) * score_row + n
                tl.store(place, score, mask=n < tl.load(token_keys + token))
        start = end


@triton.jit
def load_keys(
    pool, scales, page, offset, is_key, DIM: tl.constexpr, PAGE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Keys [n, BLOCK_D] at `offset` in their pages, 0 beyond DIM and where not `is_key`; and their scales [n]."""
    d = tl.arange(0, BLOCK_D)
    mask = is_key[:, None] & (d[None, :] < DIM)
    place = page * (PAGE * WIDTH) + offset * (DIM if scales is not None else WIDTH)
    keys = tl.load(pool + place[:, None] + d[None, :], mask=mask, other=0.0)
    key_scales = 1.0
    if scales is not None:  # after the numbers of all tokens of the page
        key_scales = tl.load(scales + (page * (PAGE * WIDTH) + PAGE * DIM) // 4 + offset, mask=is_key, other=0.0)
    return keys, key_scales


@triton.jit
def scores_of(
    queries, head_weights, token, keys, num_heads,
    DIM: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N]: of one token over some keys."""
    h, d = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_D)
    own = token * num_heads + h
    mask = (h[:, None] < num_heads) & (d[None, :] < DIM)
    query = tl.load(queries + own[:, None] * DIM + d[None, :], mask=mask, other=0.0)
    products = dot(keys, tl.trans(query), tl.full([BLOCK_N, BLOCK_H], 0.0, tl.float32), IN_FLOAT32)
    weights = tl.load(head_weights + own, mask=h < num_heads, other=0.0)
    return tl.sum(tl.maximum(products, 0.0) * weights[None, :], 1)
