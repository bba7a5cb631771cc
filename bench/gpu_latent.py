"""Kernels for latents alone, at DeepSeek-V3.2's sizes: their times, and those of other blocks and splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from bench.gpu_alone import Timings, alone_seconds, can_run_triton
from bench.gpu_attention import filled_cache
from bench.gpu_bench import Bench
from worker.attention.latent.attention import LatentAttention
from worker.attention.latent.index_keys import index_shape, read_index_keys, write_index_keys
from worker.attention.latent.selection import Selected
from worker.attention.latent.spec import LatentSpec
from worker.state.kv_cache import KVCache, LayerShape

Step = Sequence[tuple[int, int]]  # (tokens, keys) of each sequence
DECODES = ((1, 4096), (1, 32768), (8, 32768), (16, 32768))  # (sequences, keys)
CHUNKS = ((4096, 4096), (4096, 32768))  # (tokens, keys)
VARIED = (1, 8, 16)  # sequences
BLOCKS, SPLITS = (16, 32, 64), (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class LatentSizes:
    """Of a layer."""

    heads: int = 128
    rank: int = 512
    rotated: int = 64
    index_heads: int = 64
    dim: int = 128
    topk: int = 2048

    @property
    def spec(self) -> LatentSpec:
        return LatentSpec(scale=(self.rank + self.rotated) ** -0.5, rank=self.rank, topk=self.topk)

    def shape(self, dtype: torch.dtype) -> LayerShape:
        return LayerShape(1, self.rank + self.rotated, *index_shape(self.dim, dtype))


WHOLE, TINY = LatentSizes(), LatentSizes(4, 32, 16, 8, 16, 16)


class LatentCase:
    """A step over random pages of some layers, and the queries of one."""

    def __init__(self, bench: Bench, step: Step, dtype: torch.dtype = torch.bfloat16, copies: int = 1) -> None:
        from worker.attention.latent.kernel import KernelLatentAttention

        torch.manual_seed(1)
        self.sizes = own = TINY if bench.shape == "tiny" else WHOLE
        self.cache, self.rows = filled_cache(bench.device, own.shape(dtype), step, dtype, copies)
        for pool in self.cache.values:
            write_random(pool, own.dim)
        num_tokens = sum(num for num, _ in step)
        made = partial(torch.randn, device=bench.device)
        self.queries = made(num_tokens, own.heads, own.rank + own.rotated, dtype=dtype)
        self.index_queries = made(num_tokens, own.index_heads, own.dim, dtype=dtype)
        self.weights = made(num_tokens, own.index_heads)
        self.attention = KernelLatentAttention.of_rows(self.cache, self.rows, bench.device)
        self.attention._place(0)

    def select(self, layer: int = 0) -> Selected | None:
        return self.attention.select(layer, self.index_queries, self.weights, self.sizes.spec)

    def attend(self, selected: Selected | None, layer: int = 0) -> torch.Tensor:
        return self.attention.attend(layer, self.queries, selected, self.sizes.spec)

    def exact(self) -> LatentAttention:
        """In float32, over the same latents and the same rounded index keys."""
        wide = LayerShape(1, self.sizes.rank + self.sizes.rotated, self.sizes.dim)
        cache = KVCache([wide], 1, self.cache.block_size, torch.float32, self.queries.device)
        keys = read_index_keys(self.cache.values[0], slice(0, self.cache.values[0].shape[1]))
        cache.keys = [self.cache.keys[0].float()]
        cache.values = [keys.view(1, -1, self.cache.block_size, self.sizes.dim)]
        return LatentAttention(cache, self.rows, self.queries.device)


def write_random(pool: torch.Tensor, dim: int) -> None:
    """Random index keys to all slots of a pool."""
    slots = torch.arange(pool.shape[1] * pool.shape[2], device=pool.device)
    write_index_keys(pool, slots, torch.randn(len(slots), dim, device=pool.device))


@torch.inference_mode()
def times(bench: Bench) -> None:
    """Of one layer, over several layers' pages: one layer's would stay in the cache."""
    if not can_run_triton(bench):
        return
    timings, is_tiny = Timings(bench, bench.read_bandwidth()), bench.shape == "tiny"
    sizes = TINY if is_tiny else WHOLE
    latent_bytes, index_bytes = 2 * (sizes.rank + sizes.rotated), sizes.dim + 4
    for batch, num_keys in ((2, 40),) if is_tiny else DECODES:
        step, name = [(1, num_keys)] * batch, f"{batch} decode, {num_keys} keys"
        read = batch * min(sizes.topk, num_keys) * latent_bytes
        timings.time("scores and selection", name, batch * num_keys * index_bytes, partial(select_runs, bench, step))
        timings.time("selected latents", name, read, partial(attend_runs, bench, step, is_selected=True))
        timings.time("all latents", name, batch * num_keys * latent_bytes, partial(attend_runs, bench, step))
    for num_tokens, num_keys in () if is_tiny else CHUNKS:
        step, name = [(num_tokens, num_keys)], f"chunk of {num_tokens}, {num_keys} keys"
        pairs = num_tokens * (num_keys - (num_tokens - 1) / 2)
        timings.time("scores and selection", name, num_keys * index_bytes, partial(select_runs, bench, step))
        bench.report.say(f"({2 * pairs * sizes.index_heads * sizes.dim / 1e12:.3f} TFLOP)")
        timings.time(
            "selected latents", name, num_keys * latent_bytes, partial(attend_runs, bench, step, is_selected=True)
        )
        attended = min(pairs, num_tokens * sizes.topk)
        bench.report.say(f"({2 * attended * sizes.heads * (2 * sizes.rank + sizes.rotated) / 1e12:.3f} TFLOP)")
    timings.end()


def select_runs(bench: Bench, step: Step, copies: int) -> list[Callable[[], object]]:
    case = LatentCase(bench, step, copies=copies if step[0][0] == 1 else 1)
    return [partial(case.select, layer) for layer in range(len(case.cache.keys))]


def attend_runs(bench: Bench, step: Step, copies: int, *, is_selected: bool = False) -> list[Callable[[], object]]:
    case = LatentCase(bench, step, copies=min(copies, 8) if step[0][0] == 1 else 1)
    return [
        partial(case.attend, case.select(layer) if is_selected else None, layer)
        for layer in range(len(case.cache.keys))
    ]


@torch.inference_mode()
def variants(bench: Bench) -> None:
    """Heads of a program, and programs that share the keys of a token: microseconds of each."""
    from worker.kernels.gpu.latent.attention import LatentKeys, attend_latents

    if not can_run_triton(bench):
        return
    is_tiny = bench.shape == "tiny"
    varied, num_keys, blocks, splits_tried = ((1,), 40, (16,), (2,)) if is_tiny else (VARIED, 32768, BLOCKS, SPLITS)
    for batch in varied:
        case = LatentCase(bench, [(1, num_keys)] * batch, copies=8)
        bench.report.columns(f"{batch} decode, heads", *(f"{splits} splits" for splits in splits_tried))
        out = torch.empty_like(case.queries[..., : case.sizes.rank])
        chosen = [case.select(layer) for layer in range(8)]
        for block in blocks:
            found = []
            for splits in splits_tried:
                runs = [
                    partial(
                        attend_latents, case.queries, LatentKeys(pool, own.counts, own.slots), out,
                        scale=case.sizes.spec.scale, max_keys=case.sizes.topk, num_splits=splits, heads_block=block,
                    )
                    for pool, own in zip(case.cache.keys, chosen, strict=True)
                    if own is not None
                ]  # fmt: skip
                found.append(alone_seconds(runs, bench.device) * 1e6)
                bench.report.number(f"latents/{batch}/{block} heads/{splits} splits/us", found[-1])
            bench.report.row(block, *(f"{us:.1f}" for us in found))
