"""Kernels for latents against float32, at DeepSeek-V3.2's sizes."""

from functools import partial

import torch

from bench.gpu_alone import Checks, can_run_triton, error_of
from bench.gpu_bench import Bench
from bench.gpu_latent import LatentCase, Step
from worker.attention.latent.index_keys import read_index_keys, turned, write_index_keys
from worker.attention.latent.selected import as_slots, attend_selected

BF16_BOUND, FLOAT32_BOUND, SCORES_BOUND, OTHERS_BOUND = 0.1, 1e-4, 0.01, 0.2
CHECKED: tuple[tuple[str, Step], ...] = (
    ("1 decodes", [(1, 9000)]),
    ("16 decode", [(1, 700 * at + 1) for at in range(16)]),
    ("a chunk", [(300, 5000)]),
    ("2 decode beside 2 chunks", [(1, 20000), (1, 60), (17, 2050), (300, 300)]),
)
TINY_CHECKED: tuple[tuple[str, Step], ...] = (("a chunk beside a decode", [(1, 90), (5, 40)]),)


@torch.inference_mode()
def checks(bench: Bench) -> None:
    if not can_run_triton(bench):
        return
    found = Checks(bench)
    for name, step in TINY_CHECKED if bench.shape == "tiny" else CHECKED:
        found.check("all latents", name, BF16_BOUND, partial(error_of_all, bench, step, torch.bfloat16))
        found.check("all latents", f"float32, {name}", FLOAT32_BOUND, partial(error_of_all, bench, step, torch.float32))
        found.check("selected latents", name, BF16_BOUND, partial(error_of_selected, bench, step))
        found.check("index scores", name, SCORES_BOUND, partial(error_of_scores, bench, step))
        found.check("highest scores left out", name, 0.0, partial(error_of_selection, bench, step))
        found.check("other keys than in float32", name, OTHERS_BOUND, partial(share_of_others, bench, step))
        found.check("writes", name, BF16_BOUND, partial(error_of_writes, bench, step))
    found.end()


def error_of_all(bench: Bench, step: Step, dtype: torch.dtype) -> float:
    case = LatentCase(bench, step, dtype)
    return error_of(case.attend(None), case.exact().attend(0, case.queries.float(), None, case.sizes.spec))


def error_of_selected(bench: Bench, step: Step) -> float:
    """Of attention over what the kernels have selected."""
    case = LatentCase(bench, step)
    selected, exact = case.select(), case.exact()
    if selected is None:
        return 0.0
    pool = exact.kv_cache.keys[0]
    expected = attend_selected(case.queries.float(), pool, selected, exact.groups, case.sizes.spec)
    return error_of(case.attend(selected), expected)


def scored(case: LatentCase) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of the last tokens of the step, [rows, keys], and the first one's number."""
    from worker.kernels.gpu.latent.index_scores import index_scores
    from worker.kernels.gpu.latent.index_writes import rounded_index

    queries, weights = rounded_index(case.index_queries, case.weights, None, is_8_bit=True)
    first = max(0, len(queries) - 256)
    scores = queries.new_zeros(len(queries) - first, -(-case.attention.max_keys // 16) * 16, dtype=torch.float32)
    index_scores(queries, weights, case.attention._index_pages(0), scores, first, case.sizes.topk)
    keys = read_index_keys(case.cache.values[0], slice(0, case.cache.values[0].shape[1]))
    expected = torch.zeros_like(scores)
    for at in range(len(scores)):
        blocks = case.attention.tensors.block_table[case.attention._rows[first + at]]
        seen = int(case.attention._keys[first + at])
        own = keys.view(-1, case.cache.block_size, case.sizes.dim)[blocks.long()].flatten(0, 1)[:seen]
        if seen > case.sizes.topk:
            expected[at, :seen] = weights[first + at] @ (queries[first + at].float() @ own.T).relu()
    return scores, expected


def error_of_scores(bench: Bench, step: Step) -> float:
    """Against products of the same rounded numbers."""
    case = LatentCase(bench, step)
    found, expected = scored(case)
    return error_of(found, expected) if bool(expected.any()) else 0.0


def error_of_selection(bench: Bench, step: Step) -> float:
    """By how much a score that was left out is higher than one that was selected, at most."""
    case = LatentCase(bench, step)
    selected = case.select()
    if selected is None:
        return 0.0
    scores, _ = scored(case)
    first, size, worst = len(selected.counts) - len(scores), case.cache.block_size, 0.0
    for at in range(len(scores)):
        row, seen = int(case.attention._rows[first + at]), int(case.attention._keys[first + at])
        count = int(selected.counts[first + at])
        assert count == min(seen, case.sizes.topk), (count, seen)
        blocks = case.attention.tensors.block_table[row].long()
        slots = (blocks[:, None] * size + torch.arange(size, device=blocks.device)).flatten()[:seen]
        taken = torch.isin(slots, selected.slots[first + at, :count].long())
        assert int(taken.sum()) == count, "slots of other keys, or some twice"
        if seen > case.sizes.topk:
            worst = max(worst, float(scores[at, :seen][~taken].max() - scores[at, :seen][taken].min()))
    return worst


def share_of_others(bench: Bench, step: Step) -> float:
    """Of the keys that are selected, those that are not by the same index keys and queries that are not rounded."""
    case = LatentCase(bench, step)
    selected = case.select()
    if selected is None:
        return 0.0
    expected = case.exact().select(0, turned(case.index_queries.float()), case.weights, case.sizes.spec)
    assert expected is not None
    num_others = sum(
        int((~torch.isin(selected.slots[at, :count], expected.slots[at, :count])).sum())
        for at, count in enumerate(expected.counts.tolist())
    )
    return num_others / int(expected.counts.sum())


def error_of_writes(bench: Bench, step: Step) -> float:
    """Of latents, queries and index keys that a step rotates and writes, beside torch's in float32."""
    from worker.kernels.gpu.latent.index_writes import IndexNorm

    case = LatentCase(bench, step)
    own, num_tokens, device = case.sizes, len(case.queries), bench.device
    angles = torch.randn(num_tokens, own.rotated // 2, device=device)
    rotation = torch.cat([angles.cos()] * 2, 1), torch.cat([angles.sin()] * 2, 1)
    made = partial(torch.randn, device=device, dtype=torch.bfloat16)
    query, latents, norm = (
        made(num_tokens, own.heads, 64 + own.rotated),
        made(num_tokens, own.rank + own.rotated),
        made(own.rank),
    )
    out = torch.zeros_like(case.queries)
    case.attention.rotate_and_write(0, query, latents, (norm, 1e-6), rotation, out, interleaves=True)
    keys, weight, bias = made(num_tokens, own.dim), made(own.dim), made(own.dim)
    case.attention.write_index(0, keys, IndexNorm(weight, bias, 1e-6), rotation)
    wide = latents.float()
    plain = torch.rms_norm(wide[:, : own.rank], (own.rank,), norm.float(), 1e-6)
    expected = torch.cat([plain, by_pairs(wide[:, None, own.rank :], angles)[:, 0]], 1)
    slots = case.attention.slots
    errors = [
        error_of(as_slots(case.cache.keys[0])[slots], expected),
        error_of(out[..., own.rank :], by_pairs(query[..., 64:].float(), angles)),
    ]
    normed = torch.layer_norm(keys.float(), (own.dim,), weight.float(), bias.float(), 1e-6)
    first, second = normed[:, : own.rotated].chunk(2, 1)
    cos, sin = angles.cos(), angles.sin()
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin, normed[:, own.rotated :]], 1)
    other = torch.zeros_like(case.cache.values[0])
    write_index_keys(other, slots, rotated)
    found, expected = (read_index_keys(pool, slice(0, pool.shape[1]))[slots] for pool in (case.cache.values[0], other))
    return max(*errors, error_of(found, expected) / 4)  # a step of e4m3 may be an eighth of a large number


def by_pairs(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """[T, heads, rotated], neighbours rotated together; the results in halves."""
    first, second = heads[..., 0::2], heads[..., 1::2]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
