"""What stands between the products and attention over latents: norms, rotations, and the writes to the paged cache."""

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.runtime import begin, overlap

HEADS_BLOCK = 32  # heads of a program


def rotate_and_write_latents(
    query: torch.Tensor,
    latents: torch.Tensor,
    norm: torch.Tensor,
    eps: float,
    rotation: tuple[torch.Tensor, torch.Tensor],
    slots: torch.Tensor,
    pool: torch.Tensor,
    out: torch.Tensor,
    *,
    interleaves: bool = True,
) -> None:
    """Rotate the last numbers of queries into those of `out`; norm and rotate latents into the `slots` of the pool.

    query [T, heads, own + rotated]; latents [T, rank + rotated], of which the first `rank` are normed with the weights
    `norm`; pool [1, blocks, size, rank + rotated] contiguous; out [T, heads, rank + rotated]. Numbers that are rotated
    together are neighbours, or lie in halves if not `interleaves`; where they are written, all lie in halves.
    `rotation`: cos and sin [T, rotated], of which the first half is read. A negative slot is not written. All strides
    but the last are free, of latents too.
    """
    num_tokens, num_heads, width = query.shape
    rotated = rotation[0].shape[1]
    rank = pool.shape[3] - rotated
    if num_tokens == 0:
        return
    cos, sin = rotation
    groups = triton.cdiv(num_heads, HEADS_BLOCK)
    latents_kernel[(num_tokens, 1 + groups)](
        query, latents, norm, cos, sin, slots, pool, out, eps, num_heads,
        *query.stride()[:2], latents.stride(0), cos.stride(0), sin.stride(0), *out.stride()[:2],
        **constants_of(rank, rotated, width - rotated, interleaves), **overlap(query.device),
    )  # fmt: skip


def constants_of(rank: int, rotated: int, own: int, interleaves: bool) -> dict[str, int]:
    """What is compiled into the kernel for latents of `rank` numbers and heads of `own`, besides what is rotated."""
    return {
        "RANK": rank,
        "HALF": rotated // 2,
        "STEP": 2 if interleaves else 1,
        "APART": 1 if interleaves else rotated // 2,
        "OWN": own,
        "HEADS_BLOCK": HEADS_BLOCK,
        "BLOCK_R": triton.next_power_of_2(rank),
        "BLOCK_H": triton.next_power_of_2(rotated // 2),
        "num_warps": 2,
    }


@triton.jit
def latents_kernel(
    query, latents, norm, cos, sin, slots, pool, out, eps, num_heads,
    query_token, query_head, latent_token, cos_token, sin_token, out_token, out_head,
    RANK: tl.constexpr, HALF: tl.constexpr, STEP: tl.constexpr, APART: tl.constexpr, OWN: tl.constexpr,
    HEADS_BLOCK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Program (token, part): first the latent, then groups of query heads.

    Number `STEP` * h is rotated with the one APART from it.
    """
    begin(OVERLAPS)
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    h = tl.arange(0, BLOCK_H)
    own_cos = tl.load(cos + token * cos_token + h, mask=h < HALF, other=0.0).to(tl.float32)
    own_sin = tl.load(sin + token * sin_token + h, mask=h < HALF, other=0.0).to(tl.float32)
    if part == 0:
        slot = tl.load(slots + token)
        source, target = latents + token * latent_token, pool + slot * (RANK + 2 * HALF)
        r = tl.arange(0, BLOCK_R)
        numbers = tl.load(source + r, mask=r < RANK, other=0.0).to(tl.float32)
        numbers *= tl.rsqrt(tl.sum(numbers * numbers, 0) / RANK + eps)
        numbers *= tl.load(norm + r, mask=r < RANK, other=0.0).to(tl.float32)
        tl.store(target + r, numbers.to(pool.dtype.element_ty), mask=(r < RANK) & (slot >= 0))
        first = tl.load(source + RANK + STEP * h, mask=h < HALF, other=0.0).to(tl.float32)
        second = tl.load(source + RANK + STEP * h + APART, mask=h < HALF, other=0.0).to(tl.float32)
        mask = (h < HALF) & (slot >= 0)
        tl.store(target + RANK + h, (first * own_cos - second * own_sin).to(pool.dtype.element_ty), mask=mask)
        tl.store(target + RANK + HALF + h, (second * own_cos + first * own_sin).to(pool.dtype.element_ty), mask=mask)
    else:
        head = (part - 1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)
        is_inside = (head < num_heads)[:, None] & (h < HALF)[None, :]
        places = query + token * query_token + head[:, None] * query_head + OWN + STEP * h[None, :]
        targets = out + token * out_token + head[:, None] * out_head + RANK + h[None, :]
        left = tl.load(places, mask=is_inside, other=0.0).to(tl.float32)
        right = tl.load(places + APART, mask=is_inside, other=0.0).to(tl.float32)
        turned_left = left * own_cos[None, :] - right * own_sin[None, :]
        turned_right = right * own_cos[None, :] + left * own_sin[None, :]
        tl.store(targets, turned_left.to(out.dtype.element_ty), mask=is_inside)
        tl.store(targets + HALF, turned_right.to(out.dtype.element_ty), mask=is_inside)
