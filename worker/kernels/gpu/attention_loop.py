"""What a program of paged attention computes: its place among queries and keys, and the softmax over its keys."""

import triton
import triton.language as tl

from worker.kernels.gpu.runtime import dot


@triton.jit
def attend_keys(
    query, keys, values, table, low, high, position, within, highest, total,
    scale, softcap, window, key_block, key_token, value_block, value_token,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """(maximum, sum, weighted values) of the rows at `query` [BLOCK_M, 1] over the keys [low, high).

    The rows' own positions are `position` + `within`. Wide tiles read the keys that all rows see without masks.
    """
    is_8_bit: tl.constexpr = keys.dtype.element_ty.primitive_bitwidth == 8
    compute: tl.constexpr = tl.float16 if is_8_bit else keys.dtype.element_ty  # every e4m3 number is one of fp16
    width: tl.constexpr = BLOCK_V // 2 if is_8_bit else BLOCK_V  # 8 bits are read two by two, as 16 bits
    d = tl.arange(0, BLOCK_D)
    left = load_dims(query + d[None, :], d[None, :], KEY_DIM, BLOCK_D <= KEY_DIM).to(compute)
    right = left
    if BLOCK_R > 0:
        r = BLOCK_D + tl.arange(0, BLOCK_R)
        right = load_dims(query + r[None, :], r[None, :], KEY_DIM, BLOCK_D + BLOCK_R == KEY_DIM).to(compute)
    sums = tl.full([BLOCK_M, width], 0.0, tl.float32)
    upper = sums
    page = pages_of(table, low, high, PAGE, BLOCK_N)
    if window is None and BLOCK_M >= 128:
        num_turns = tl.maximum(tl.minimum(position + 1, high) - low, 0) // BLOCK_N
        num_turns = tl.where(num_turns < 8, 0, num_turns)  # a loop of its own takes a microsecond to begin
        all_seen = low + num_turns * BLOCK_N
        for key in tl.range(low, all_seen, BLOCK_N):
            highest, total, sums, upper, page = turn(
                left, right, keys, values, table, key, high, position + within, highest, total, sums, upper, page,
                scale, softcap, window, key_block, key_token, value_block, value_token,
                KEY_DIM, VALUE_DIM, PAGE, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_R, width, False, IN_FLOAT32,
            )  # fmt: skip
        low = all_seen
    for key in tl.range(low, high, BLOCK_N):
        highest, total, sums, upper, page = turn(
            left, right, keys, values, table, key, high, position + within, highest, total, sums, upper, page,
            scale, softcap, window, key_block, key_token, value_block, value_token,
            KEY_DIM, VALUE_DIM, PAGE, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_R, width, True, IN_FLOAT32,
        )  # fmt: skip
    if is_8_bit:
        sums = tl.interleave(sums, upper)
    return highest, total, sums


@triton.jit
def turn(
    left, right, keys, values, table, key, high, position, highest, total, sums, upper_sums, page,
    scale, softcap, window, key_block, key_token, value_block, value_token,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, WIDTH: tl.constexpr, MASKED: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """After the BLOCK_N keys from `key` on, which lie in `page`: maximum, sum, weighted values; and the next page.

    MASKED: hidden keys get the score -inf, and values from `high` on read as 0: what a block holds there has no effect.
    """
    is_8_bit: tl.constexpr = keys.dtype.element_ty.primitive_bitwidth == 8
    compute: tl.constexpr = tl.float16 if is_8_bit else keys.dtype.element_ty
    d, n, v = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N), tl.arange(0, WIDTH)
    page, token = page.to(tl.int64), places_in_pages(key, PAGE, BLOCK_N)
    next_page = pages_of(table, key + BLOCK_N, high, PAGE, BLOCK_N)  # early, so that loads of keys do not wait
    own_keys = (keys + page * key_block + token * key_token)[None, :]
    own_values = (values + page * value_block + token * value_token)[:, None] + v[None, :]
    key_d = load_dims(own_keys + d[:, None], d[:, None], KEY_DIM, BLOCK_D <= KEY_DIM).to(compute)
    scores = dot(left, key_d, tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32), IN_FLOAT32)
    if BLOCK_R > 0:
        r = BLOCK_D + tl.arange(0, BLOCK_R)
        key_r = load_dims(own_keys + r[:, None], r[:, None], KEY_DIM, BLOCK_D + BLOCK_R == KEY_DIM).to(compute)
        scores = dot(right, key_r, scores, IN_FLOAT32)
    if softcap is not None:
        scores = squeezed(scores * scale, softcap)
        scale = 1.0
    num_values: tl.constexpr = VALUE_DIM // 2 if is_8_bit else VALUE_DIM
    if MASKED:
        is_seen = (key + n)[None, :] <= position[:, None]
        if window is not None:
            is_seen = is_seen & ((key + n)[None, :] > position[:, None] - window)
        scores = tl.where(is_seen, scores, float("-inf"))
        value = tl.load(own_values, mask=((key + n)[:, None] < high) & (v[None, :] < num_values), other=0)
    else:
        value = load_dims(own_values, v[None, :], num_values, WIDTH == num_values)
    highest, total, weights, shrink = softened(highest, total, scores, scale)
    weights = weights.to(compute)
    if is_8_bit:
        lower, upper = fp16_of_pairs(value, IN_FLOAT32)
        upper_sums = dot(weights, upper, upper_sums * shrink[:, None], IN_FLOAT32)
    else:
        lower = value
    sums = dot(weights, lower, sums * shrink[:, None], IN_FLOAT32)
    return highest, total, sums, upper_sums, next_page


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
def share_of(split, num_splits, usual_splits, position, count, window, BLOCK_N: tl.constexpr):
    """The keys [low, high) that a split reads, empty where low >= high. `split` may be a block of numbers.

    `usual_splits` share the keys about equally; more are used for a sequence that has 2,048 for each of them.
    """
    first = 0
    if window is not None:
        first = tl.maximum(position - window + 1, 0) // BLOCK_N * BLOCK_N
    last = position + count
    num_blocks = (last - first + BLOCK_N - 1) // BLOCK_N
    num_used = tl.minimum(num_splits, tl.maximum(usual_splits, tl.cdiv(last - first, 2048)))
    share = (num_blocks + num_used - 1) // num_used * BLOCK_N
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
def softened(highest, total, scores, scale):
    """The running maximum and sum of rows after more keys, whose hidden scores are -inf; the keys' weights, and what
    weighted values of earlier keys shrink to. Scores are still to be multiplied by `scale`."""
    new = tl.maximum(highest, tl.max(scores, 1) * scale)
    base = tl.where(new == float("-inf"), 0.0, new)  # a row that has seen no key yet
    weights = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(highest - base)
    return new, total * shrink + tl.sum(weights, 1), weights, shrink


@triton.jit
def fp16_of_pairs(pairs, IN_FLOAT32: tl.constexpr):
    """e4m3 numbers, two in 16 bits, to fp16: the lower ones and the upper ones. Every e4m3 number is one of fp16."""
    if IN_FLOAT32:  # the interpreter has no PTX
        lower = (pairs & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float32).to(tl.float16)
        upper = ((pairs >> 8) & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float32).to(tl.float16)
    else:
        lower, upper = tl.inline_asm_elementwise(
            """{
            .reg .b32 bytes;
            .reg .b16 low, high;
            prmt.b32 bytes, $2, 0, 0x3120;
            mov.b32 {low, high}, bytes;
            cvt.rn.f16x2.e4m3x2 $0, low;
            cvt.rn.f16x2.e4m3x2 $1, high;
            }""",
            "=r,=r,r",
            [pairs],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )
    return lower, upper
