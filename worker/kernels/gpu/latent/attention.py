"""Attention over latents: of the slots that were selected for each token, or of all keys of its sequence.

A program computes some heads of one token over a part of its keys. All heads read the same latents, which are keys and
values: a tile of them is read once for both products.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.attention_loop import softened
from worker.kernels.gpu.paged_attention import LOG2_E
from worker.kernels.gpu.runtime import begin, dot, is_interpreted, overlap
from worker.kernels.gpu.split_keys import num_multiprocessors

MIN_ROWS = 16  # of a matrix product
HEADS_BLOCK = 64  # heads of a program: what four warps multiply at a time
MIN_KEYS = 64  # of a part
MAX_SPLITS = 64  # a part is as many numbers as half of its keys' latents, written and read again
FEW_SPLITS = 8
PART_KEYS = 2048  # a sequence with more has more parts than others
MAX_PARTS = 2**26  # numbers of all parts, 256 MB: where there are more tokens, long sequences are not split

# of arguments that change from step to step, a value of 1 or an address makes no other kernel
VARYING = ("usual_splits", "slot_row", "table_row")
TABLES = ("slots", "counts", "block_table", "token_rows")


@dataclass(frozen=True, slots=True)
class LatentKeys:
    """The keys of each token: the first `counts` of its `slots`, or of its sequence's blocks."""

    pool: torch.Tensor  # [1, blocks, size, rank + rotated], contiguous
    counts: torch.Tensor  # [T] int32; 0: the result is 0, as for padding
    slots: torch.Tensor | None = None  # [T, topk] int32
    block_table: torch.Tensor | None = None  # [N, W] int32, without `slots`
    token_rows: torch.Tensor | None = None  # [T] int32: the sequence of each token


def attend_latents(
    query: torch.Tensor,
    keys: LatentKeys,
    out: torch.Tensor,
    *,
    scale: float,
    max_keys: int,
    num_splits: int | None = None,
    heads_block: int = HEADS_BLOCK,
) -> None:
    """`query` [T, heads, rank + rotated], any strides but the last; `out` [T, heads, rank] contiguous.

    `max_keys`: of a token; it only decides how many programs share the keys of one, unless `num_splits` says it.
    """
    num_tokens, num_heads, width = query.shape
    rank = out.shape[2]
    if num_tokens == 0:
        return
    shape = launch_shape(rank, width - rank, keys.pool.dtype, num_heads, heads_block)
    groups = triton.cdiv(num_heads, shape["BLOCK_M"])
    usual, most = splits_for(num_tokens * groups, max_keys, num_multiprocessors(out.device))
    most = max(usual, min(most, MAX_PARTS // out.numel()))
    if num_splits is not None:
        usual = most = num_splits
    parts, log_sums = out, None
    if most > 1:
        parts = torch.empty(most, *out.shape, dtype=torch.float32, device=out.device)
        log_sums = torch.empty(most, num_tokens, num_heads, dtype=torch.float32, device=out.device)
    latent_attention_kernel[(groups, num_tokens, most)](
        query, parts, log_sums, keys.pool, keys.slots, keys.counts, keys.block_table, keys.token_rows,
        scale * LOG2_E, num_heads, usual, *query.stride()[:2],
        0 if keys.slots is None else keys.slots.stride(0),
        0 if keys.block_table is None else keys.block_table.stride(0),
        WIDTH=width, RANK=rank, PAGE=keys.pool.shape[2], **shape, **overlap(out.device, starts_early=False),
    )  # fmt: skip
    if log_sums is not None:
        block_s, block_r = FEW_SPLITS if most <= FEW_SPLITS else MAX_SPLITS, triton.next_power_of_2(rank)
        combine_latents_kernel[(num_heads, num_tokens)](
            parts, log_sums, out, keys.counts, most, usual, RANK=rank, BLOCK_N=shape["BLOCK_N"], BLOCK_S=block_s,
            BLOCK_R=block_r, num_warps=max(1, min(16, block_s * block_r // 2048)),
            **overlap(out.device, starts_early=False),
        )  # fmt: skip


def launch_shape(
    rank: int, rotated: int, dtype: torch.dtype, num_heads: int, heads_block: int = HEADS_BLOCK
) -> dict[str, int | bool]:
    """The kernel's blocks, warps and stages. docs/kernels.md has the registers and the shared memory that they take."""
    is_float32 = dtype == torch.float32  # multiplied without tensor cores
    block_m = max(MIN_ROWS, min(MIN_ROWS if is_float32 else heads_block, triton.next_power_of_2(num_heads)))
    return {
        "BLOCK_M": block_m,
        "BLOCK_N": MIN_ROWS if is_float32 else 64 if block_m < 64 else 32,
        "BLOCK_R": max(MIN_ROWS, triton.next_power_of_2(rank)),
        "BLOCK_P": max(MIN_ROWS, triton.next_power_of_2(rotated)),
        "IN_FLOAT32": is_interpreted() or is_float32,
        "num_warps": 8,
        "num_stages": 1 if is_float32 else 2,
    }


def splits_for(num_programs: int, max_keys: int, num_multiprocessors: int) -> tuple[int, int]:
    """Programs that share the keys of a token: as a rule, and of the longest."""
    usual = max(1, min(num_multiprocessors // num_programs, triton.cdiv(max_keys, MIN_KEYS), MAX_SPLITS))
    return usual, max(usual, min(triton.cdiv(max_keys, PART_KEYS), MAX_SPLITS))


@triton.jit
def share_of_count(split, num_splits, usual_splits, count, BLOCK_N: tl.constexpr):
    """The keys [low, high) of a split, empty where low >= high. `split` may be a block of numbers."""
    num_used = tl.minimum(num_splits, tl.maximum(usual_splits, tl.cdiv(count, 2048)))
    share = tl.cdiv(tl.cdiv(count, BLOCK_N), num_used) * BLOCK_N
    low = split * share
    return low, tl.minimum(low + share, count)


@triton.jit
def slots_at(key, high, slots, table, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Slots of the BLOCK_N keys from `key` on: read from `slots`, or by the block `table`; 0 from `high` on."""
    n = key + tl.arange(0, BLOCK_N)
    if slots is not None:
        return tl.load(slots + n, mask=n < high, other=0).to(tl.int64)
    else:
        return tl.load(table + n // PAGE, mask=n < high, other=0).to(tl.int64) * PAGE + n % PAGE


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=TABLES)
def latent_attention_kernel(
    query, out, log_sums, latents, slots, counts, block_table, token_rows, scale, num_heads, usual_splits,
    query_token, query_head, slot_row, table_row,
    WIDTH: tl.constexpr, RANK: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr, IN_FLOAT32: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Program (group of heads, token, split). `out` [T, heads, RANK], or parts in float32 with `log_sums`.

    Latents are multiplied in two blocks: BLOCK_R numbers that are values too, and BLOCK_P that are rotated.
    """
    begin(OVERLAPS)
    group, split = tl.program_id(0), tl.program_id(2)
    token = tl.program_id(1).to(tl.int64)
    count = tl.load(counts + token)
    low, high = share_of_count(split, tl.num_programs(2), usual_splits, count, BLOCK_N)
    if low >= high:
        if log_sums is None:
            zero_heads(out, token, group, num_heads, RANK, BLOCK_M, BLOCK_R)
        return
    own_slots = slots if slots is None else slots + token * slot_row
    table = block_table
    if block_table is not None:
        table = block_table + tl.load(token_rows + token).to(tl.int64) * table_row
    m, n, r, p = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_P)
    head = group * BLOCK_M + m
    is_head, is_rank, is_rotated = head < num_heads, r < RANK, p < WIDTH - RANK
    own = query + token * query_token + head[:, None] * query_head
    left = tl.load(own + r[None, :], mask=is_head[:, None] & is_rank[None, :], other=0.0)
    right = tl.load(own + RANK + p[None, :], mask=is_head[:, None] & is_rotated[None, :], other=0.0)
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.full([BLOCK_M], 0.0, tl.float32)
    sums = tl.full([BLOCK_M, BLOCK_R], 0.0, tl.float32)
    slot = slots_at(low, high, own_slots, table, PAGE, BLOCK_N)
    for key in tl.range(low, high, BLOCK_N):
        is_key = key + n < high
        place = latents + slot[:, None] * WIDTH
        latent = tl.load(place + r[None, :], mask=is_key[:, None] & is_rank[None, :], other=0.0)
        rotated = tl.load(place + RANK + p[None, :], mask=is_key[:, None] & is_rotated[None, :], other=0.0)
        slot = slots_at(key + BLOCK_N, high, own_slots, table, PAGE, BLOCK_N)  # early, so that loads do not wait
        scores = dot(left, tl.trans(latent), tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32), IN_FLOAT32)
        scores = dot(right, tl.trans(rotated), scores, IN_FLOAT32)
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        highest, total, weights, shrink = softened(highest, total, scores, scale)
        sums = dot(weights.to(latent.dtype), latent, sums * shrink[:, None], IN_FLOAT32)
    sums /= total[:, None]
    at = token * num_heads + head
    if log_sums is not None:
        at += split.to(tl.int64) * tl.num_programs(1) * num_heads
        tl.store(log_sums + at, highest + tl.log2(total), mask=is_head)
    mask = is_head[:, None] & is_rank[None, :]
    tl.store(out + at[:, None] * RANK + r[None, :], sums.to(out.dtype.element_ty), mask=mask)


@triton.jit
def zero_heads(out, token, group, num_heads, RANK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr):
    """What heads of a token without keys attend to."""
    head, r = group * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_R)
    mask = (head < num_heads)[:, None] & (r < RANK)[None, :]
    place = out + (token * num_heads + head)[:, None] * RANK + r[None, :]
    tl.store(place, tl.zeros([BLOCK_M, BLOCK_R], out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=("num_splits", "usual_splits"), do_not_specialize_on_alignment=("counts",))
def combine_latents_kernel(
    parts, log_sums, out, counts, num_splits, usual_splits,
    RANK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Program (head, token): the parts of its keys put together by their maxima and sums."""
    begin(OVERLAPS)
    head, num_heads = tl.program_id(0), tl.num_programs(0)
    token, num_tokens = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    count = tl.load(counts + token)
    s, r = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_R)
    at = token * num_heads + head
    if count <= 0:
        tl.store(out + at * RANK + r, tl.zeros([BLOCK_R], out.dtype.element_ty), mask=r < RANK)
        return
    low, high = share_of_count(s, num_splits, usual_splits, count, BLOCK_N)
    is_used = (s < num_splits) & (low < high)
    rows = (s.to(tl.int64) * num_tokens + token) * num_heads + head
    sums = tl.load(log_sums + rows, mask=is_used, other=float("-inf"))
    weights = tl.exp2(sums - tl.max(sums, 0))
    mask = is_used[:, None] & (r[None, :] < RANK)
    part = tl.load(parts + rows[:, None] * RANK + r[None, :], mask=mask, other=0.0)
    result = tl.sum(part * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + at * RANK + r, result.to(out.dtype.element_ty), mask=r < RANK)
