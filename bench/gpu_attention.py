"""Our attention kernel alone: against PagedAttention in float32 over the same pages, then against the bandwidth."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from bench.gpu_alone import Checks, Timings, can_run_triton, error_of
from bench.gpu_bench import Bench
from worker.attention.paged import PagedAttention
from worker.attention.spec import AttentionSpec
from worker.runners.probe import probe_sequence
from worker.state.kv_cache import KVCache, LayerShape
from worker.state.scheduled_sequence import ScheduledSequence

Step = Sequence[tuple[int, int]]  # (queries, keys) of each sequence
BF16_BOUND, FP8_BOUND = 0.1, 0.1  # fp8: the reference reads the same rounded numbers
FP8 = torch.float8_e4m3fn
PAGE = 64

# (query heads, heads of keys, key size, value size), window, softcap, sinks, dtype of the pools
CASES: tuple[tuple[tuple[int, int, int, int], int | None, float | None, bool, torch.dtype], ...] = (
    ((32, 8, 128, 128), None, None, False, torch.bfloat16),
    ((32, 8, 128, 128), 512, None, False, torch.bfloat16),
    ((32, 8, 128, 128), None, None, False, FP8),
    ((64, 8, 64, 64), 128, None, True, torch.bfloat16),
    ((8, 4, 256, 256), None, 50.0, False, torch.bfloat16),
    ((32, 32, 128, 128), None, None, False, torch.bfloat16),
    ((16, 16, 192, 128), None, None, False, torch.bfloat16),
)
STEPS: tuple[tuple[str, Step], ...] = (
    ("1 decodes", [(1, 4000)]),
    ("32 decode", [(1, 100 * at + 1) for at in range(32)]),
    ("a chunk", [(700, 1500)]),
    ("2 decode beside 2 chunks", [(1, 1000), (1, 60), (17, 900), (300, 300)]),
)
TINY_CASES = (((4, 2, 32, 32), None, None, False, torch.bfloat16), ((4, 2, 32, 32), 20, None, False, FP8))
TINY_STEPS = (("a chunk beside a decode", [(1, 70), (5, 40)]),)
DECODES = ((1, 1024), (8, 1024), (32, 1024), (64, 1024), (1, 32768), (32, 8192))  # (sequences, keys)
CHUNKS = ((512, 512), (4096, 4096), (4096, 32768))  # (queries, keys)


@torch.inference_mode()
def checks(bench: Bench) -> None:
    if not can_run_triton(bench):
        return
    is_tiny = bench.shape == "tiny"
    found = Checks(bench)
    for shape, window, softcap, has_sinks, dtype in TINY_CASES if is_tiny else CASES:
        heads, kv_heads, key_dim, value_dim = shape
        marks = [f"window {window}" if window else "", f"softcap {softcap:g}" if softcap else ""]
        marks += ["sinks" if has_sinks else "", "fp8" if dtype == FP8 else ""]
        for name, step in TINY_STEPS if is_tiny else STEPS:
            case = ", ".join([f"{heads}/{kv_heads} x {key_dim}", *filter(None, marks), name])
            sinks = torch.randn(heads, device=bench.device) if has_sinks else None
            spec = AttentionSpec(key_dim**-0.5, window, softcap=softcap, sinks=sinks)
            layer = LayerShape(kv_heads, key_dim, value_dim)
            bound = FP8_BOUND if dtype == FP8 else BF16_BOUND
            found.check(
                "attention", case, bound, partial(attention_error, bench.device, heads, layer, spec, step, dtype)
            )
    found.end()


def attention_error(
    device: torch.device, heads: int, shape: LayerShape, spec: AttentionSpec, step: Step, dtype: torch.dtype
) -> float:
    from worker.attention.kernel import KernelAttention

    torch.manual_seed(1)
    cache, rows = filled_cache(device, shape, step, dtype, 1)
    exact = KVCache([shape], 1, cache.block_size, torch.float32, device)
    exact.keys, exact.values = [cache.keys[0].float()], [cache.values[0].float()]
    query = random_queries(device, step, heads, shape)
    expected = PagedAttention(exact, rows, device).attend(0, query.float(), spec)
    got = KernelAttention.of_rows(cache, rows, device).attend(0, query, spec)
    return error_of(got, expected)


def random_queries(device: torch.device, step: Step, heads: int, shape: LayerShape) -> torch.Tensor:
    """With free strides, as a part of the product that makes queries, keys and values."""
    num_tokens = sum(num for num, _ in step)
    wide = torch.randn(num_tokens, heads + 2 * shape.num_kv_heads, shape.key_dim, device=device, dtype=torch.bfloat16)
    return wide[:, :heads]


def filled_cache(
    device: torch.device, shape: LayerShape, step: Step, dtype: torch.dtype, num_layers: int
) -> tuple[KVCache, list[ScheduledSequence]]:
    """Random pages in random order, and the step's rows in kernel order: single tokens first."""
    num_blocks = sum(-(-num_keys // PAGE) for _, num_keys in step)
    cache = KVCache([shape] * num_layers, num_blocks, PAGE, dtype, device)
    for pool in (*cache.keys, *cache.values):
        pool.copy_(torch.randn(pool.shape, device=device, dtype=torch.bfloat16).to(dtype))
    free = torch.randperm(num_blocks).tolist()
    rows = []
    for num_queries, num_keys in sorted(step, key=lambda row: (row[0] > 1, -row[1])):
        sequence = probe_sequence([1] * num_keys)
        sequence.block_ids = [free.pop() for _ in range(-(-num_keys // PAGE))]
        sequence.begin_at(num_keys - num_queries)
        rows.append(ScheduledSequence(sequence, num_queries))
    return cache, rows


@torch.inference_mode()
def times(bench: Bench) -> None:
    """Of the 8B Llama's heads, over several layers' pages: one layer's would stay in the cache."""
    if not can_run_triton(bench):
        return
    is_tiny = bench.shape == "tiny"
    timings = Timings(bench, bench.read_bandwidth())
    heads, shape = (4, LayerShape(2, 32, 32)) if is_tiny else (32, LayerShape(8, 128, 128))
    for dtype in (torch.bfloat16, FP8):
        kind = "fp8 kv, " if dtype == FP8 else ""
        for batch, num_keys in ((2, 40),) if is_tiny else DECODES:
            step = [(1, num_keys)] * batch
            num_bytes = batch * num_keys * shape.token_bytes(dtype)
            runs = partial(attention_runs, bench, heads, shape, step, dtype)
            timings.time("attention", f"{kind}{batch} decode, {num_keys} keys", num_bytes, runs)
    for num_queries, num_keys in () if is_tiny else CHUNKS:
        step = [(num_queries, num_keys)]
        runs = partial(attention_runs, bench, heads, shape, step, torch.bfloat16)
        pairs = num_queries * (num_keys - (num_queries - 1) / 2)
        num_bytes = num_keys * shape.token_bytes(torch.bfloat16) + 2 * num_queries * heads * shape.key_dim * 2
        timings.time("attention", f"chunk of {num_queries}, {num_keys} keys", num_bytes, runs)
        bench.report.say(f"({4 * pairs * heads * shape.key_dim / 1e12:.3f} TFLOP)")
    timings.end()


def attention_runs(
    bench: Bench, heads: int, shape: LayerShape, step: Step, dtype: torch.dtype, copies: int
) -> list[Callable[[], object]]:
    from worker.attention.kernel import KernelAttention

    cache, rows = filled_cache(bench.device, shape, step, dtype, copies)
    attention = KernelAttention.of_rows(cache, rows, bench.device)
    query = random_queries(bench.device, step, heads, shape)
    spec = AttentionSpec(shape.key_dim**-0.5, None)
    return [partial(attention.attend, layer, query, spec) for layer in range(copies)]
