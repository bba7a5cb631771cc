"""Logits to tokens in one launch: greedy rows and sampled rows, with temperature, top_k, top_p and min_p.

One program a row, which reads the row once for its maximum and, for a draw, a few times more from the L2 cache. Nothing
is sorted. top_k and top_p keep the logits from some logit on, and that one is found by bisection: above it lie fewer
than top_k logits, or less than top_p of the weight. Each turn reads the row once and moves a bound to the next logit of
the row, so that the result is exact, ties included, after about log2(logits in question) turns.

Estimates for 128K logits in float32: 0.5 MB cross from the L2 cache to a multiprocessor in about 5 us, so a greedy row
takes 5 us, a draw 15, and one with top_p or top_k up to 15 turns more: 100 us, or 60 where the model computes in bf16,
which has a few hundred different logits in question. Rows run side by side.

Recorded with the step it would not pay. A launch from Python costs about 10 us of CPU, while the GPU still computes
the step; the recording would save the gap of 1 to 2 us before one kernel, 0.03 % of a step of 5 ms. It would cost a
kernel in each recording that runs for nothing where logit rules change the logits first, and fixed buffers.
"""

import torch
import triton
import triton.language as tl

BLOCK = 8192  # logits that a program reads at once
SPAN = 256  # logits whose weights are summed in float64
NUM_WARPS = 32
COLUMNS = ("uniform", "temperature", "top_k", "top_p", "min_difference")  # of the parameters


def sample_rows(
    logits: torch.Tensor, parameters: torch.Tensor | None, no_token: int, block: int = BLOCK
) -> torch.Tensor:
    """Token ids [S], int64: the likeliest token of a row with temperature 0, a drawn one of the others.

    `logits` [S, vocab], float32, bf16 or fp16, contiguous in a row. `parameters` [S, 5], float64, in the order of
    COLUMNS: a number in (0, 1); temperature; top_k (vocab_size or more keeps all); top_p; and how far a logit may lie
    below the largest, temperature * log(min_p). None: all rows are greedy. A row with NaN or without a finite maximum
    gets `no_token`.
    """
    num_rows, vocab_size = logits.shape
    token_ids = torch.empty(num_rows, dtype=torch.long, device=logits.device)
    if num_rows == 0:
        return token_ids
    block = min(block, max(SPAN, triton.next_power_of_2(vocab_size)))
    num_blocks = triton.next_power_of_2(triton.cdiv(vocab_size, block))
    sample_kernel[(num_rows,)](
        logits, parameters, token_ids, vocab_size, logits.stride(0), no_token,
        NUM_BLOCKS=num_blocks, BLOCK=block, SPAN=SPAN, num_warps=NUM_WARPS,
    )  # fmt: skip
    return token_ids


@triton.jit(do_not_specialize=["no_token"])
def sample_kernel(
    logits, parameters, token_ids, vocab_size, stride, no_token,
    NUM_BLOCKS: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    best, token, is_sound = likeliest(logits, vocab_size, BLOCK)
    if parameters is not None:
        temperature = tl.load(parameters + row * 5 + 1).to(tl.float32)
        if is_sound & (temperature > 0):
            token = drawn(
                logits, vocab_size, best, temperature,
                uniform=tl.load(parameters + row * 5),
                top_k=tl.load(parameters + row * 5 + 2),
                top_p=tl.load(parameters + row * 5 + 3),
                min_difference=tl.load(parameters + row * 5 + 4).to(tl.float32),
                NUM_BLOCKS=NUM_BLOCKS, BLOCK=BLOCK, SPAN=SPAN,
            )  # fmt: skip
    tl.store(token_ids + row, tl.where(is_sound, token, no_token).to(tl.int64))


@triton.jit
def drawn(
    logits, vocab_size, best, temperature, uniform, top_k, top_p, min_difference,
    NUM_BLOCKS: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """A token of the distribution; top_k, top_p and min_p truncate it in turn."""
    scale = 1.4426950408889634 / tl.clamp(temperature, 1e-30, 1e30)  # weights are powers of 2
    floor = best - float("inf")  # the smallest logit that is kept
    if top_k < vocab_size:
        _, low = weigh(logits, vocab_size, floor, best, scale, BLOCK)
        floor = bisect(logits, vocab_size, low, best, top_k, best, scale, True, BLOCK)
    if top_p < 1:
        total, low = weigh(logits, vocab_size, floor, best, scale, BLOCK)
        floor = bisect(logits, vocab_size, low, best, top_p * total, best, scale, False, BLOCK)
    floor = tl.maximum(floor, best + min_difference)
    return invert_row(logits, vocab_size, uniform, floor, best, scale, NUM_BLOCKS, BLOCK, SPAN)


@triton.jit
def load_block(logits, start, vocab_size, BLOCK: tl.constexpr):
    at = start + tl.arange(0, BLOCK)
    return tl.load(logits + at, mask=at < vocab_size, other=-float("inf")).to(tl.float32)


@triton.jit
def load_weights(logits, start, vocab_size, floor, best, scale, BLOCK: tl.constexpr):
    """exp((logit - best) / temperature), and 0 for logits below `floor`."""
    value = load_block(logits, start, vocab_size, BLOCK)
    return tl.where(value >= floor, tl.exp2((value - best) * scale), 0.0)


@triton.jit
def likeliest(logits, vocab_size, BLOCK: tl.constexpr):
    """The largest logit, its first place, and True unless it is infinite or one of them is NaN."""
    top = tl.full([BLOCK], -float("inf"), tl.float32)
    place = tl.zeros([BLOCK], tl.int32)
    num_bad = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocab_size, BLOCK):
        value = load_block(logits, start, vocab_size, BLOCK)
        num_bad += (value != value).to(tl.int32)
        is_larger = value > top
        place = tl.where(is_larger, start + tl.arange(0, BLOCK), place)
        top = tl.where(is_larger, value, top)
    best = tl.max(top, axis=0)
    first = tl.min(tl.where(top == best, place, vocab_size), axis=0)
    is_sound = (tl.sum(num_bad, axis=0) == 0) & (tl.abs(best) < float("inf"))
    return best, first, is_sound


@triton.jit
def weigh(logits, vocab_size, floor, best, scale, BLOCK: tl.constexpr):
    """Of the logits from `floor` on: the sum of their weights, float64, and the smallest that has one."""
    sums = tl.zeros([BLOCK], tl.float32)
    smallest = tl.full([BLOCK], float("inf"), tl.float32)
    for start in range(0, vocab_size, BLOCK):
        value = load_block(logits, start, vocab_size, BLOCK)
        weight = tl.where(value >= floor, tl.exp2((value - best) * scale), 0.0)
        sums += weight
        smallest = tl.minimum(smallest, tl.where(weight > 0, value, float("inf")))
    return tl.sum(sums.to(tl.float64), axis=0), tl.min(smallest, axis=0)


@triton.jit
def bisect(logits, vocab_size, low, high, limit, best, scale, COUNTS: tl.constexpr, BLOCK: tl.constexpr):
    """The smallest logit of [low, high] above which the weights sum to less than `limit`; `high` if there is none.

    low and high are logits of the row at all times. COUNTS: each weighs 1.
    """
    while low < high:
        middle = low + (high - low) * 0.5
        middle = tl.where(middle < high, middle, low)
        sums = tl.zeros([BLOCK], tl.float32)
        below = tl.full([BLOCK], -float("inf"), tl.float32)
        above = tl.full([BLOCK], float("inf"), tl.float32)
        for start in range(0, vocab_size, BLOCK):
            value = load_block(logits, start, vocab_size, BLOCK)
            is_above = value > middle
            if COUNTS:
                sums += is_above.to(tl.float32)
            else:
                sums += tl.where(is_above, tl.exp2((value - best) * scale), 0.0)
            below = tl.maximum(below, tl.where(is_above, -float("inf"), value))
            above = tl.minimum(above, tl.where(is_above, value, float("inf")))
        if tl.sum(sums.to(tl.float64), axis=0) < limit:
            high = tl.max(below, axis=0)
        else:
            low = tl.min(above, axis=0)
    return high


@triton.jit
def invert_row(
    logits, vocab_size, uniform, floor, best, scale,
    NUM_BLOCKS: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The token at which the cumulative weight of the logits from `floor` on passes `uniform` of all of it."""
    blocks = tl.zeros([NUM_BLOCKS], tl.float64)
    for start in range(0, vocab_size, BLOCK):
        weight = load_weights(logits, start, vocab_size, floor, best, scale, BLOCK)
        blocks = tl.where(tl.arange(0, NUM_BLOCKS) == start // BLOCK, tl.sum(weight, axis=0).to(tl.float64), blocks)
    block, rest = invert(blocks, uniform * tl.sum(blocks, axis=0), NUM_BLOCKS)
    weight = load_weights(logits, block * BLOCK, vocab_size, floor, best, scale, BLOCK)
    spans = tl.sum(tl.reshape(weight, [BLOCK // SPAN, SPAN]), axis=1).to(tl.float64)
    span, rest = invert(spans, rest, BLOCK // SPAN)
    start = block * BLOCK + span * SPAN
    weight = load_weights(logits, start, vocab_size, floor, best, scale, SPAN)
    place, rest = invert(weight.to(tl.float64), rest, SPAN)
    return start + place


@triton.jit
def invert(weights, target, N: tl.constexpr):
    """The place [N] at which the cumulative weight passes `target`, and what of the target lies beyond those before.

    A target that rounding put beyond all weights gets the last place that has one.
    """
    places = tl.arange(0, N)
    cumulative = tl.cumsum(weights, axis=0)
    last = tl.max(tl.where(weights > 0, places, 0), axis=0)
    place = tl.minimum(tl.sum((cumulative <= target).to(tl.int32), axis=0), last)
    before = tl.sum(tl.where(places < place, weights, 0.0), axis=0)
    return place, tl.maximum(target - before, 0.0)
