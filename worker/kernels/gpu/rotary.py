"""Head norms, rotary positions and the writes to the paged KV cache, in one kernel."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.runtime import begin, overlap, saturated

HEADS_BLOCK = 8  # heads of a program: 16 bytes a thread for heads of 128 bf16 numbers and 2 warps
WARP_NUMBERS = 256  # of half of the heads, 8 a thread


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Norms over each head of the queries and of the keys, before the rotation. Weights [dim]."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


def rotate_and_write(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    head_norms: HeadNorms | None,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: tuple[torch.Tensor | None, torch.Tensor | None],
    heads: int,
    kv_heads: int,
) -> None:
    """Rotate the queries in `qkv` in place; write the rotated keys and the values to the `slots` of the pools.

    qkv [T, (heads + 2 * kv_heads) * dim]; slots [T] int64, negative: not written. cos and sin [T, rotated]: the first
    `rotated` numbers of each head are rotated, by halves, and only the first half of cos and sin is read. Pools
    [kv_heads, blocks, block_size, dim] with any strides but the last; fp8 pools hold numbers divided by `scales`
    (float32 [kv_heads], of keys and of values), limited to their range. Row strides of qkv, cos and sin are free.
    """
    num_tokens, dim = len(slots), keys.shape[-1]
    if num_tokens == 0:
        return
    query_norm, key_norm, eps = (head_norms.query, head_norms.key, head_norms.eps) if head_norms else (None, None, 0.0)
    key_scales, value_scales = scales
    query_groups, kv_groups = triton.cdiv(heads, HEADS_BLOCK), triton.cdiv(kv_heads, HEADS_BLOCK)
    rotate_and_write_kernel[(num_tokens, query_groups + 2 * kv_groups)](
        qkv, cos, sin, query_norm, key_norm, slots, keys, values, key_scales, value_scales,
        qkv.stride(0), cos.stride(0), sin.stride(0), *keys.stride()[:3], *values.stride()[:3],
        heads, kv_heads, query_groups, kv_groups, eps,
        **constants_of(dim, cos.shape[1], keys.shape[2]), **overlap(qkv.device),
    )  # fmt: skip


def constants_of(dim: int, rotated: int, block_size: int) -> dict[str, int]:
    """What is compiled into a kernel for heads of `dim` numbers of which `rotated` are rotated; and its warps."""
    half, rest = rotated // 2, dim - rotated
    half_block = triton.next_power_of_2(half)
    return {
        "BLOCK_SIZE": block_size,
        "DIM": dim,
        "HALF": half,
        "HALF_BLOCK": half_block,
        "REST_BLOCK": triton.next_power_of_2(rest) if rest else 0,
        "HEADS_BLOCK": HEADS_BLOCK,
        "num_warps": max(1, HEADS_BLOCK * half_block // WARP_NUMBERS),
    }


@triton.jit
def rotate_and_write_kernel(
    qkv, cos, sin, query_norm, key_norm, slots, keys, values, key_scales, value_scales,
    qkv_stride, cos_stride, sin_stride, key_head, key_block, key_token, value_head, value_block,
    value_token, heads, kv_heads, query_groups, kv_groups, eps,
    BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, REST_BLOCK: tl.constexpr,
    HEADS_BLOCK: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Program (token, group of heads): first the queries' groups, then the keys', then the values'."""
    begin(OVERLAPS)
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    row = qkv + token * qkv_stride
    slot = tl.load(slots + token)
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    if group < query_groups:
        head = group * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)
        place = row + head * DIM
        rotate_heads(
            place, place, head < heads, query_norm, None, head, cos + token * cos_stride, sin + token * sin_stride, eps,
            DIM, HALF, HALF_BLOCK, REST_BLOCK,
        )  # fmt: skip
    elif group < query_groups + kv_groups:
        head = (group - query_groups) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)
        target = keys + block * key_block + offset * key_token + head.to(tl.int64) * key_head
        rotate_heads(
            row + (heads + head) * DIM, target, (head < kv_heads) & (slot >= 0), key_norm, key_scales, head,
            cos + token * cos_stride, sin + token * sin_stride, eps, DIM, HALF, HALF_BLOCK, REST_BLOCK,
        )  # fmt: skip
    else:
        head = (group - query_groups - kv_groups) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)
        source = row + (heads + kv_heads + head) * DIM
        target = values + block * value_block + offset * value_token + head.to(tl.int64) * value_head
        is_head = (head < kv_heads) & (slot >= 0)
        copy_heads(source, target, is_head, value_scales, head, DIM)


@triton.jit
def rotate_heads(
    source, target, is_head, norm, scales, head, cos, sin, eps,
    DIM: tl.constexpr, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, REST_BLOCK: tl.constexpr,
):  # fmt: skip
    """Heads at `source` [HEADS_BLOCK], normed and rotated, to `target`, which may be the same.

    What all heads share is read for each head, from the first-level cache: in one layout, nothing goes through shared
    memory.
    """
    column = tl.zeros_like(head)[:, None] + tl.arange(0, HALF_BLOCK)[None, :]
    is_inside = is_head[:, None] & (column < HALF)
    first = tl.load(source[:, None] + column, mask=is_inside, other=0.0).to(tl.float32)
    second = tl.load(source[:, None] + HALF + column, mask=is_inside, other=0.0).to(tl.float32)
    if REST_BLOCK > 0:
        other = tl.zeros_like(head)[:, None] + 2 * HALF + tl.arange(0, REST_BLOCK)[None, :]
        is_other = is_head[:, None] & (other < DIM)
        rest = tl.load(source[:, None] + other, mask=is_other, other=0.0).to(tl.float32)
    if norm is not None:
        squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
        if REST_BLOCK > 0:
            squares += tl.sum(rest * rest, axis=1)
        scale = tl.rsqrt(squares / DIM + eps)[:, None]
        first *= scale * tl.load(norm + column, mask=is_inside, other=0.0).to(tl.float32)
        second *= scale * tl.load(norm + HALF + column, mask=is_inside, other=0.0).to(tl.float32)
        if REST_BLOCK > 0:
            rest *= scale * tl.load(norm + other, mask=is_other, other=0.0).to(tl.float32)
    angle_cos = tl.load(cos + column, mask=is_inside, other=0.0).to(tl.float32)
    angle_sin = tl.load(sin + column, mask=is_inside, other=0.0).to(tl.float32)
    store_heads(target[:, None] + column, first * angle_cos - second * angle_sin, is_inside, scales, head, is_head)
    store_heads(
        target[:, None] + HALF + column, second * angle_cos + first * angle_sin, is_inside, scales, head, is_head
    )
    if REST_BLOCK > 0:
        store_heads(target[:, None] + other, rest, is_other, scales, head, is_head)


@triton.jit
def copy_heads(source, target, is_head, scales, head, DIM: tl.constexpr):
    column = tl.arange(0, triton.next_power_of_2(DIM))
    is_inside = is_head[:, None] & (column < DIM)[None, :]
    numbers = tl.load(source[:, None] + column, mask=is_inside, other=0.0)
    store_heads(target[:, None] + column, numbers, is_inside, scales, head, is_head)


@triton.jit
def store_heads(places, numbers, is_inside, scales, head, is_head):
    """Numbers [HEADS_BLOCK, columns] divided by their head's scale, if there are scales, and limited to fp8's range."""
    if scales is not None:
        scale = tl.load(scales + head, mask=is_head, other=1.0)[:, None]
        numbers = saturated(numbers.to(tl.float32) / scale)
    tl.store(places, numbers.to(places.dtype.element_ty), mask=is_inside)
