"""The sampling kernel alone: its tokens against the exact distribution, and how long it takes."""

import math
from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import torch

from bench.gpu_alone import Checks, Timings, can_run_triton
from bench.gpu_bench import Bench
from bench.gpu_model import SHAPES

NO_TOKEN = -1
BORDER = 4e-6  # of the weight: a draw nearer to a border between tokens may fall on either side of it
# (temperature, top_k, top_p, min_p)
KINDS = MappingProxyType(
    {
        "greedy": (0.0, 0, 1.0, 0.0),
        "temperature": (0.8, 0, 1.0, 0.0),
        "top_p": (0.8, 0, 0.95, 0.0),
        "top_k": (0.7, 20, 1.0, 0.0),
        "top_k, top_p, min_p": (0.7, 20, 0.8, 0.01),
    }
)


@torch.inference_mode()
def sampling_alone(bench: Bench) -> None:
    """Logits as bf16 rounds them, in which many are equal, and as float32 holds them."""
    if not can_run_triton(bench):
        return
    torch.manual_seed(2)
    is_tiny = bench.device.type != "cuda"
    checks = Checks(bench)
    for name, kind in KINDS.items():
        for dtype in (torch.bfloat16, torch.float32):
            rows = 2 if is_tiny else 64
            case = f"{name}, {str(dtype).removeprefix('torch.')} logits"
            checks.check("sample", case, 0.0, partial(wrong_share, bench, rows, dtype, kind))
    checks.end()
    timings = Timings(bench, bench.read_bandwidth())
    for name, kind in KINDS.items():
        for rows in (2,) if is_tiny else (1, 32):
            size = 4 * rows * SHAPES[bench.shape]["vocab_size"]
            timings.time("sample", f"{name}, {rows} rows", size, partial(samplers, bench, rows, kind))
    timings.end()


def samplers(bench: Bench, rows: int, kind: tuple[float, ...], copies: int) -> list[Callable[[], object]]:
    from worker.kernels.gpu.sampling import sample_rows

    return [partial(sample_rows, *inputs(bench, rows, torch.bfloat16, kind), NO_TOKEN) for _ in range(copies)]


def inputs(
    bench: Bench, rows: int, dtype: torch.dtype, kind: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits, float32, of a spread as models have it, and the parameters."""
    vocab_size = SHAPES[bench.shape]["vocab_size"]
    logits = (torch.randn(rows, vocab_size, device=bench.device) * 2.5).to(dtype).float()
    logits[:, :: vocab_size // 20] += 8
    temperature, top_k, top_p, min_p = kind
    if temperature == 0:
        return logits, None
    numbers = torch.rand(rows, dtype=torch.float64).tolist()
    least = temperature * math.log(min_p) if min_p else -math.inf
    table = [[number, temperature, top_k or vocab_size, top_p, least] for number in numbers]
    return logits, torch.tensor(table, dtype=torch.float64, device=bench.device)


def wrong_share(bench: Bench, rows: int, dtype: torch.dtype, kind: tuple[float, ...]) -> float:
    """Of the rows, those with another token than the exact one, but for draws at a border between two."""
    from worker.kernels.gpu.sampling import sample_rows

    logits, parameters = inputs(bench, rows, dtype, kind)
    found = sample_rows(logits, parameters, NO_TOKEN)
    if parameters is None:
        return float((found != first_of_largest(logits)).double().mean())
    pairs = zip(found.tolist(), logits, parameters.tolist(), strict=True)
    return sum(is_wrong(token, row, numbers) for token, row, numbers in pairs) / rows


def first_of_largest(logits: torch.Tensor) -> torch.Tensor:
    return (logits == logits.amax(-1, keepdim=True)).int().argmax(-1)


def is_wrong(token: int, logits: torch.Tensor, parameters: list[float]) -> bool:
    number, temperature, top_k, top_p, least = parameters
    differences = logits.double() - logits.double().amax()
    weights = (differences / temperature).exp()
    if top_k < len(weights):
        weights = weights * (differences >= differences.topk(int(top_k)).values[-1])
    if top_p < 1:
        ordered, order = weights.sort(descending=True)
        last = int((ordered.cumsum(0) - ordered < top_p * ordered.sum()).sum()) - 1
        weights = weights * (differences >= differences[order[max(last, 0)]])
    shares = (weights * (differences >= least)).cumsum(0)
    shares = shares / shares[-1]
    exact = int((shares <= number).sum())
    return token != exact and float((shares - number).abs().amin()) > BORDER
