"""Index keys to their pages and index queries as their scores are computed: normed, rotated, and rounded to 8 bits.

Rounded vectors are turned before (worker/attention/latent/index_keys.py): a product with a matrix of signs, which are
made of the places' bits.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from worker.kernels.elementwise import FP8_MAX, SMALLEST_PEAK
from worker.kernels.gpu.runtime import begin, dot, is_interpreted, overlap, saturated

FP8 = torch.float8_e4m3fn
MIN_ROWS = 16  # of a matrix product
Rotation = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class IndexNorm:
    """Of index keys: over their mean and variance. Weights [dim]."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


def write_index(
    keys: torch.Tensor,
    slots: torch.Tensor,
    pool: torch.Tensor,
    norm: IndexNorm | None,
    rotation: Rotation | None,
    *,
    interleaves: bool = False,
) -> None:
    """Write keys [T, dim], of any row stride, to the `slots` [T] of a pool; negative: nowhere.

    `pool` [1, blocks, size, dim], or uint8 with dim + 4 bytes a token. `norm` and `rotation` (cos and sin [T, rotated],
    of which the first half is read): None for keys that have theirs. The first `rotated` numbers are rotated by halves,
    or if it `interleaves` each with its neighbour.
    """
    num_tokens, dim = keys.shape
    if num_tokens == 0:
        return
    is_8_bit, rows = pool.dtype == torch.uint8, MIN_ROWS
    scales = pool[0].flatten(1).view(torch.float32) if is_8_bit else None
    weights = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    index_kernel[(triton.cdiv(num_tokens, rows),)](
        keys, None, *weights, *(rotation or (None, None)), slots, pool.view(FP8) if is_8_bit else pool, scales, None,
        num_tokens, keys.stride(0), 1, *strides_of(rotation),
        **constants_of(dim, rotation, rows, interleaves), PAGE=pool.shape[2], WIDTH=pool.shape[3],
        **overlap(keys.device),
    )  # fmt: skip


def rounded_index(
    queries: torch.Tensor,
    head_weights: torch.Tensor,
    rotation: Rotation | None,
    *,
    is_8_bit: bool,
    interleaves: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """queries [T, heads, dim], of any token stride, and head_weights [T, heads] as index_scores() takes them.

    In 8 bits: e4m3 queries, and weights times their scales. Without: both as they are, but for the `rotation`.
    """
    num_tokens, num_heads, dim = queries.shape
    head_weights = head_weights.float()
    if num_tokens == 0 or not (is_8_bit or rotation):
        return queries.contiguous(), head_weights.contiguous()
    out = torch.empty(queries.shape, dtype=FP8 if is_8_bit else queries.dtype, device=queries.device)
    weights = torch.empty(num_tokens, num_heads, dtype=torch.float32, device=queries.device)
    rows = max(MIN_ROWS, triton.next_power_of_2(num_heads))
    index_kernel[(num_tokens,)](
        queries, head_weights.contiguous(), None, None, 0.0, *(rotation or (None, None)), None, out,
        weights if is_8_bit else None, weights,
        num_tokens * num_heads, queries.stride(0), num_heads, *strides_of(rotation),
        **constants_of(dim, rotation, rows, interleaves), PAGE=1, WIDTH=dim, **overlap(queries.device),
    )  # fmt: skip
    return out, weights if is_8_bit else head_weights


def strides_of(rotation: Rotation | None) -> tuple[int, int]:
    return (0, 0) if rotation is None else (rotation[0].stride(0), rotation[1].stride(0))


def constants_of(
    dim: int, rotation: Rotation | None, rows: int, interleaves: bool = False
) -> dict[str, int | bool | float]:
    """What is compiled into the kernel, and its warps."""
    half = 0 if rotation is None else rotation[0].shape[1] // 2
    return {
        "DIM": dim,
        "HALF": half,
        "STEP": 2 if interleaves else 1,
        "APART": 1 if interleaves else half,
        "ROWS": rows,
        "BLOCK_D": max(MIN_ROWS, triton.next_power_of_2(dim)),
        "PART": dim & -dim,
        "LARGEST": FP8_MAX,
        "SMALLEST": SMALLEST_PEAK,
        "IN_FLOAT32": is_interpreted(),
        "num_warps": 4,
    }


@triton.jit(do_not_specialize=("num_rows",))
def index_kernel(
    source, head_weights, norm, norm_bias, eps, cos, sin, slots, out, scales, weights,
    num_rows, source_token, heads, cos_token, sin_token,
    DIM: tl.constexpr, HALF: tl.constexpr, STEP: tl.constexpr, APART: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr, PART: tl.constexpr, PAGE: tl.constexpr, WIDTH: tl.constexpr, LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr, IN_FLOAT32: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Program: all heads of a token, or ROWS tokens of one head. With `slots` [T] to pages, else to rows of `out`."""
    begin(OVERLAPS)
    at = tl.arange(0, ROWS)
    if slots is not None:
        token = tl.program_id(0) * ROWS + at
        row, is_row = token, token < num_rows
        start = token.to(tl.int64) * source_token
    else:
        token = tl.program_id(0) + tl.zeros_like(at)
        row, is_row = token * heads + at, at < heads
        start = token.to(tl.int64) * source_token + at * DIM
    d = tl.arange(0, BLOCK_D)
    mask = is_row[:, None] & (d < DIM)[None, :]
    numbers = tl.load(source + start[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
    if norm is not None:
        mean = tl.sum(numbers, 1) / DIM
        centred = tl.where(mask, numbers - mean[:, None], 0.0)
        scale = tl.rsqrt(tl.sum(centred * centred, 1) / DIM + eps)
        numbers = normed(centred, scale, norm, norm_bias, d, DIM)
    if HALF > 0:
        is_first, partner, angle = pairs(d, HALF, STEP, APART)
        inside = mask & (d < 2 * HALF)[None, :]
        others = tl.load(source + start[:, None] + partner[None, :], mask=inside, other=0.0).to(tl.float32)
        if norm is not None:
            others = normed(others - mean[:, None], scale, norm, norm_bias, partner, DIM)
        own_cos = tl.load(cos + token[:, None] * cos_token + angle[None, :], mask=inside, other=1.0).to(tl.float32)
        own_sin = tl.load(sin + token[:, None] * sin_token + angle[None, :], mask=inside, other=0.0).to(tl.float32)
        numbers = numbers * own_cos + tl.where(is_first, -1.0, 1.0)[None, :] * others * own_sin
    place = row.to(tl.int64) * WIDTH
    if slots is not None:
        slot = tl.load(slots + token, mask=is_row, other=-1)
        is_row = slot >= 0
        mask = mask & is_row[:, None]
        place = slot * WIDTH
        if scales is not None:
            place = slot // PAGE * (PAGE * WIDTH) + slot % PAGE * DIM
    if scales is not None:
        numbers = turned(numbers.to(source.dtype.element_ty), mask, PART, BLOCK_D, ROWS, IN_FLOAT32)
        numbers, scale = rounded(numbers, SMALLEST, LARGEST)
        if slots is not None:
            scale_place = slot // PAGE * (PAGE * WIDTH // 4) + PAGE * DIM // 4 + slot % PAGE
            tl.store(scales + scale_place, scale, mask=is_row)
        else:
            tl.store(weights + row, tl.load(head_weights + row, mask=is_row, other=0.0) * scale, mask=is_row)
    tl.store(out + place[:, None] + d[None, :], numbers.to(out.dtype.element_ty), mask=mask)


@triton.jit
def pairs(d, HALF: tl.constexpr, STEP: tl.constexpr, APART: tl.constexpr):
    """If the numbers at `d` are the first of those that are rotated together, where the others are, and their angles.

    Number `STEP` * h is rotated with the one APART from it; each stays in its place.
    """
    is_first = (d % 2 == 0) if STEP == 2 else d < HALF
    partner = tl.where(d < 2 * HALF, tl.where(is_first, d + APART, d - APART), 0)
    return is_first, partner, tl.where(is_first, d, d - APART) // STEP


@triton.jit
def normed(centred, scale, norm, norm_bias, d, DIM: tl.constexpr):
    """Numbers around their mean, at the places `d` of the weights."""
    weight = tl.load(norm + d, mask=d < DIM, other=0.0).to(tl.float32)
    bias = tl.load(norm_bias + d, mask=d < DIM, other=0.0).to(tl.float32)
    return centred * scale[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def rounded(numbers, SMALLEST: tl.constexpr, LARGEST: tl.constexpr):
    """Rows divided by their scales, so that the largest number is LARGEST; and the scales."""
    scale = tl.maximum(tl.max(tl.abs(numbers), 1), SMALLEST) / LARGEST
    return saturated(numbers / scale[:, None]), scale


@triton.jit
def turned(numbers, mask, PART: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """Rows times the orthogonal matrix, 0 where not `mask`."""
    zeros = tl.full([ROWS, BLOCK_D], 0.0, tl.float32)
    products = dot(numbers, signs(PART, BLOCK_D).to(numbers.dtype), zeros, IN_FLOAT32)
    return tl.where(mask, products * tl.rsqrt(PART + 0.0), 0.0)


@triton.jit
def signs(PART: tl.constexpr, BLOCK_D: tl.constexpr):
    """[BLOCK_D, BLOCK_D]: 1 or -1, the parity of the bits that two places have in common; 0 between parts."""
    i, j = tl.arange(0, BLOCK_D)[:, None], tl.arange(0, BLOCK_D)[None, :]
    bits = (i % PART) & (j % PART)
    bits ^= bits >> 8
    bits ^= bits >> 4
    bits ^= bits >> 2
    bits ^= bits >> 1
    return tl.where(i // PART == j // PART, 1.0 - 2.0 * (bits & 1).to(tl.float32), 0.0)
