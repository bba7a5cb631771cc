"""What a program of paged attention computes: its place among queries and keys, and the softmax over its keys."""

import triton
import triton.language as tl

from worker.kernels.gpu.runtime import dot


@triton.jit
def place_of(tile, tile_rows, tile_starts, query_starts, num_keys, TILE_QUERIES: tl.constexpr):
    """(sequence, flat index of the first query, number of queries, position of the first one) of a tile.

    Without `tile_rows`, tile n is all of sequence n. The number is 0 for a tile that is not to be computed.
    """
    if tile_rows is None:
        row = tile
        first = 0
        start = tl.load(query_starts + row)
        total = tl.load(query_starts + row + 1) - start
        count = tl.where(total > TILE_QUERIES, 0, total)
    else:
        asked = tl.load(tile_rows + tile)
        row = tl.maximum(asked, 0)
        first = tl.load(tile_starts + tile)
        start = tl.load(query_starts + row)
        total = tl.load(query_starts + row + 1) - start
        count = tl.where(asked < 0, 0, tl.minimum(total - first, TILE_QUERIES))
    return row, start + first, count, tl.load(num_keys + row) - total + first


@triton.jit
def share_of(split, num_splits, position, count, window, BLOCK_N: tl.constexpr):
    """The keys [low, high) that a split reads, empty where low >= high. `split` may be a block of numbers."""
    first = 0
    if window is not None:
        first = tl.maximum(position - window + 1, 0) // BLOCK_N * BLOCK_N
    last = position + count
    num_blocks = (last - first + BLOCK_N - 1) // BLOCK_N
    share = (num_blocks + num_splits - 1) // num_splits * BLOCK_N
    low = first + split * share
    return low, tl.minimum(low + share, last)


@triton.jit
def pages_of(table, key, high, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Block ids of the BLOCK_N keys from `key` on: a number if one block holds them all, else [BLOCK_N].

    Keys from `high` on read block 0 or the last block. That is memory of the pool, so loads of keys need no mask.
    """
    if PAGE >= BLOCK_N:
        return tl.load(table + key // PAGE, mask=key < high, other=0)
    else:
        at = key + tl.arange(0, BLOCK_N)
        return tl.load(table + at // PAGE, mask=at < high, other=0)


@triton.jit
def places_in_pages(key, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """[BLOCK_N]: where in their blocks the keys from `key` on lie."""
    if PAGE > BLOCK_N:
        return key % PAGE + tl.arange(0, BLOCK_N)
    else:
        return tl.arange(0, BLOCK_N) % PAGE


@triton.jit
def load_dims(pointers, dims, NUM_DIMS: tl.constexpr, EXACT: tl.constexpr):
    """Numbers at the pointers, 0 for dimensions beyond NUM_DIMS, of which there are none if EXACT."""
    if EXACT:
        return tl.load(pointers)
    return tl.load(pointers, mask=dims < NUM_DIMS, other=0.0)


@triton.jit
def squeezed(scores, softcap):
    """softcap * tanh(scores / softcap). Scores and softcap are in units of log2(e)."""
    return softcap - 2 * softcap / (tl.exp2(scores * (2.8853900817779268 / softcap)) + 1)


@triton.jit
def with_keys(highest, total, sums, scores, value, IN_FLOAT32: tl.constexpr):
    """The running maximum, sum and weighted values of rows after BLOCK_N more keys, whose hidden scores are -inf."""
    new = tl.maximum(highest, tl.max(scores, 1))
    base = tl.where(new == float("-inf"), 0.0, new)  # a row that has seen no key yet
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(highest - base)
    sums = dot(weights.to(value.dtype), value, sums * shrink[:, None], IN_FLOAT32)
    return new, total * shrink + tl.sum(weights, 1), sums
