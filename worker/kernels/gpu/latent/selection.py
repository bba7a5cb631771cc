"""The keys of each token with the highest index scores, found without sorting.

One program a token. Scores are compared by their bits, which have the same order once those of negative numbers are
turned round, so that a bound is found by bisection of whole numbers: each turn reads the token's scores once, from a
cache, and halves what is in question, about 22 turns for the 32,768 scores of a long context.
"""

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.latent.index_scores import IndexPages
from worker.kernels.gpu.runtime import begin, overlap

BLOCK = 16384  # scores that a program compares at a time: a turn waits for the cache once for each block
TAKEN_BLOCK = 4096  # scores of which it writes the chosen ones at a time
NUM_WARPS = 32

VARYING = ("first", "table_row", "slot_row")
TABLES = ("token_rows", "token_keys", "block_table", "slots", "counts")


def select_slots(
    scores: torch.Tensor, pages: IndexPages, slots: torch.Tensor, counts: torch.Tensor, first: int, block: int = BLOCK
) -> None:
    """Write `slots` [T, topk] and `counts` [T], both int32, of the tokens from `first` on, as many as have scores.

    Slots are in the order of positions. Of equal scores the earlier keys are taken. A token that sees `topk` keys or
    fewer gets them all; its scores are not read.
    """
    if len(scores) == 0:
        return
    block_size = pages.pool.shape[2]
    select_kernel[(len(scores),)](
        scores, pages.token_rows, pages.token_keys, pages.block_table, slots, counts, first,
        pages.block_table.stride(0), scores.stride(0), slots.stride(0),
        TOPK=slots.shape[1], PAGE=block_size, BLOCK=block, TAKEN_BLOCK=min(block, TAKEN_BLOCK), num_warps=NUM_WARPS,
        **overlap(scores.device, starts_early=False),
    )  # fmt: skip


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=TABLES)
def select_kernel(
    scores, token_rows, token_keys, block_table, slots, counts, first, table_row, score_row, slot_row,
    TOPK: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, TAKEN_BLOCK: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    begin(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    token = first + row
    num_keys = tl.load(token_keys + token)
    table = block_table + tl.load(token_rows + token).to(tl.int64) * table_row
    own_scores, own_slots = scores + row * score_row, slots + token * slot_row
    tl.store(counts + token, tl.minimum(num_keys, TOPK))
    n = tl.arange(0, TAKEN_BLOCK)
    if num_keys <= TOPK:
        for start in tl.range(0, num_keys, TAKEN_BLOCK):
            at = start + n
            page = tl.load(table + at // PAGE, mask=at < num_keys, other=0)
            tl.store(own_slots + at, page * PAGE + at % PAGE, mask=at < num_keys)
    else:
        low, high, num_above = bounds(own_scores, num_keys, TOPK, BLOCK)
        base = 0
        num_equal = 0  # of those from `low` on and below `high`, of which the first ones are taken
        for start in tl.range(0, num_keys, TAKEN_BLOCK):
            at = start + n
            order = ordered(own_scores, at, num_keys)
            is_above = order >= high
            is_equal = (order >= low) & (order < high)
            number = num_equal + tl.cumsum(is_equal.to(tl.int32), 0)
            is_taken = is_above | (is_equal & (number <= TOPK - num_above))
            place = base + tl.cumsum(is_taken.to(tl.int32), 0) - 1
            page = tl.load(table + at // PAGE, mask=is_taken, other=0)
            tl.store(own_slots + place, page * PAGE + at % PAGE, mask=is_taken)
            base += tl.sum(is_taken.to(tl.int32), 0)
            num_equal += tl.sum(is_equal.to(tl.int32), 0)


@triton.jit
def bounds(scores, num_keys, TOPK: tl.constexpr, BLOCK: tl.constexpr):
    """(low, high, number from high on): at least TOPK scores are from `low` on, fewer from `high` on, and between them
    lie equal ones only, or all that are still to be taken."""
    n = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -2147483648, tl.int32)
    smallest = tl.full([BLOCK], 2147483647, tl.int32)
    for start in tl.range(0, num_keys, BLOCK):
        order = ordered(scores, start + n, num_keys)
        largest = tl.maximum(largest, order)
        smallest = tl.minimum(smallest, tl.where(start + n < num_keys, order, 2147483647))
    low = tl.min(smallest, 0).to(tl.int64)
    high = tl.max(largest, 0).to(tl.int64) + 1
    num_low, num_high = num_keys, 0
    while (high - low > 1) & (num_low != TOPK):
        middle = (low + (high - low) // 2).to(tl.int32)
        sums = tl.zeros([BLOCK], tl.int32)
        for start in tl.range(0, num_keys, BLOCK):
            sums += (ordered(scores, start + n, num_keys) >= middle).to(tl.int32)
        number = tl.sum(sums, 0)
        if number >= TOPK:
            low = middle.to(tl.int64)
            num_low = number
        else:
            high = middle.to(tl.int64)
            num_high = number
    return low, high, num_high


@triton.jit
def ordered(scores, at, num_keys):
    """Whole numbers with the order of the scores; the least of all beyond the last one.

    Rows of scores are wider than that by a multiple of 16, so that they can be read in lines: what stands there may be
    anything, and is not computed with.
    """
    bits = tl.load(scores + at, mask=at < tl.cdiv(num_keys, 16) * 16, other=0.0).to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = tl.where(bits == -2147483648, 0, order)  # -0 is 0
    return tl.where(at < num_keys, order, -2147483648)
