"""The inputs of a recorded step: one transfer and one kernel put a step's numbers where the recording reads them."""

import torch
import triton
import triton.language as tl

BLOCK = 1024
RUNTIME_NUMBERS = ("num_tokens", "num_longs", "num_ints", "num_entries", "width", "stride")  # one compiled form for all


@triton.jit(do_not_specialize=RUNTIME_NUMBERS, do_not_specialize_on_alignment=["sampled"])
def fill_step_kernel(
    table,
    sampled,
    longs,
    ints,
    block_table,
    num_tokens,
    num_longs,
    num_ints,
    num_entries,
    width,
    stride,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    num_fixed = num_longs + num_ints
    value = tl.load(table + at, mask=at < num_fixed + num_tokens + num_entries, other=0)
    is_token = at < num_tokens
    pending = tl.load(table + num_fixed + at, mask=is_token, other=-1)
    is_pending = is_token & (pending >= 0)
    drawn = tl.load(sampled + pending, mask=is_pending, other=0)
    token_or_other = tl.where(is_pending, tl.maximum(drawn, 0), value.to(tl.int64))
    tl.store(longs + at, token_or_other, mask=at < num_longs)
    tl.store(ints + at - num_longs, value, mask=(at >= num_longs) & (at < num_fixed))
    entry = at - num_fixed - num_tokens
    place = entry // width * stride + entry % width
    tl.store(block_table + place, value, mask=(entry >= 0) & (entry < num_entries))


def fill_step(
    table: torch.Tensor,
    sampled: torch.Tensor,
    longs: torch.Tensor,
    ints: torch.Tensor,
    block_table: torch.Tensor,
    num_tokens: int,
) -> None:
    """Copy a step's numbers to the buffers of a recording.

    `table`, int32, holds in this order: the values of `longs` [L], int64, whose first `num_tokens` are token ids; those
    of `ints` [I], int32; for each token -1, or its index in `sampled`, int64, where it is read instead (a sample below
    0, which failed, reads as token 0); the first columns of `block_table` [N, W], int32, as many as are left.
    """
    num_entries = len(table) - len(longs) - len(ints) - num_tokens
    width = max(1, num_entries // len(block_table))
    grid = (triton.cdiv(len(table), BLOCK),)
    fill_step_kernel[grid](
        table, sampled, longs, ints, block_table, num_tokens, len(longs), len(ints), num_entries, width,
        block_table.stride(0), BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
