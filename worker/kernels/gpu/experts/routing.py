"""The choice of experts for each token, and their weights, from a router's logits: one launch."""

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.runtime import begin, overlap


def route(
    logits: torch.Tensor,
    top_k: int,
    *,
    by_sigmoid: bool,
    correction: torch.Tensor | None,
    num_groups: int,
    num_chosen_groups: int,
    num_best: int,
    renormalizes: bool,
    scaling: float,
    least_sum: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [T, experts] -> experts of each token, [T, top_k] int64, best first, and their weights, float32.

    A group's score is the sum of its `num_best` (1 or 2) best scores. Of equal scores the first expert is taken.
    """
    num_tokens, num_experts = logits.shape
    chosen = torch.empty(num_tokens, top_k, dtype=torch.int64, device=logits.device)
    weights = torch.empty(num_tokens, top_k, dtype=torch.float32, device=logits.device)
    if num_tokens:
        route_kernel[(num_tokens,)](
            logits, correction, chosen, weights, num_experts, logits.stride(0), scaling, least_sum,
            TOP_K=top_k, BY_SIGMOID=by_sigmoid, HAS_CORRECTION=correction is not None, RENORMALIZES=renormalizes,
            NUM_GROUPS=num_groups, NUM_CHOSEN_GROUPS=num_chosen_groups, NUM_BEST=num_best,
            BLOCK_E=triton.next_power_of_2(num_experts), BLOCK_K=triton.next_power_of_2(top_k),
            BLOCK_G=triton.next_power_of_2(num_groups), num_warps=1 if num_experts <= 256 else 4,
            **overlap(logits.device),
        )  # fmt: skip
    return chosen, weights


@triton.jit
def route_kernel(
    logits, correction, chosen, weights, num_experts, stride, scaling, least_sum,
    TOP_K: tl.constexpr, BY_SIGMOID: tl.constexpr, HAS_CORRECTION: tl.constexpr, RENORMALIZES: tl.constexpr,
    NUM_GROUPS: tl.constexpr, NUM_CHOSEN_GROUPS: tl.constexpr, NUM_BEST: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """One program a token."""
    begin(OVERLAPS)
    nothing = float("-inf")
    token = tl.program_id(0).to(tl.int64)
    e, k, g = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_G)
    is_expert = e < num_experts
    row = tl.load(logits + token * stride + e, mask=is_expert, other=nothing).to(tl.float32)
    if BY_SIGMOID:
        scores = tl.sigmoid(row)
    else:
        powers = tl.exp(row - tl.max(row, axis=0))
        scores = powers / tl.sum(powers, axis=0)
    preferred = scores
    if HAS_CORRECTION:
        preferred += tl.load(correction + e, mask=is_expert, other=0.0)
    preferred = tl.where(is_expert, preferred, nothing)
    if NUM_CHOSEN_GROUPS < NUM_GROUPS:
        group = e // (num_experts // NUM_GROUPS)
        of_groups = tl.full([BLOCK_G], nothing, tl.float32)
        for number in tl.static_range(NUM_GROUPS):
            own = tl.where(group == number, preferred, nothing)
            best = tl.max(own, axis=0)
            if NUM_BEST == 2:
                best += tl.max(tl.where(e == tl.argmax(own, axis=0), nothing, own), axis=0)
            of_groups = tl.where(g == number, best, of_groups)
        is_in = tl.zeros([BLOCK_E], tl.int1)
        for _ in tl.static_range(NUM_CHOSEN_GROUPS):
            number = tl.argmax(of_groups, axis=0)
            is_in = is_in | (group == number)
            of_groups = tl.where(g == number, nothing, of_groups)
        preferred = tl.where(is_in, preferred, nothing)
    experts = tl.zeros([BLOCK_K], tl.int64)
    found = tl.zeros([BLOCK_K], tl.float32)
    for at in tl.static_range(TOP_K):
        expert = tl.minimum(tl.argmax(preferred, axis=0), num_experts - 1)  # whatever NaN makes of it
        experts = tl.where(k == at, expert.to(tl.int64), experts)
        found = tl.where(k == at, tl.sum(tl.where(e == expert, scores, 0.0), axis=0), found)
        preferred = tl.where(e == expert, nothing, preferred)
    if RENORMALIZES:
        found = found / (tl.sum(found, axis=0) + least_sum)
    tl.store(chosen + token * TOP_K + k, experts, mask=k < TOP_K)
    tl.store(weights + token * TOP_K + k, found * scaling, mask=k < TOP_K)
