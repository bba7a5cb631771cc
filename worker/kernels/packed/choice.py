"""The measurement at start that chooses how a CPU computes products with packed weights.

For every distinct product (form, widths, number of rows) the ways of CpuLinear are timed by turns, over the model's
layers in turn, so that weights come from memory as in a decode step. Each way counts by its fastest try: where other
programs take the processor meanwhile, a try says how long they kept it.

Logits of small models are often near each other, and the rounding of inputs to int8 changes which is the largest. Such
models do without; their weights stay in a cache, so the multiplications that "fine" costs are nearly the only loss.
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from hashlib import sha256
from itertools import chain, cycle
from pathlib import Path

import torch

from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.linear import parts_of
from worker.kernels.native import processor_features
from worker.kernels.packed.cpu import AS_THEY_ARE, ROWS, WAYS, CpuLinear
from worker.kernels.product_table import ProductTable

logger = logging.getLogger(__name__)

BUDGET_S = 6.0  # for measurements of one start; what is left over is measured at the next one
LEAST_TRIES, MOST_TRIES = 2, 7  # of each way
TRIES_S = 0.3  # after which no further tries of a product begin
HOPELESS = 4  # times the fastest: a way that is not tried again
SMALL_BYTES = 128_000_000  # of the packed weights of a small model, which mostly stay in caches
LOSS = 1.1  # the times of "fine" and "rounded" where the former is still taken
FORMAT = 5  # of what is measured: to be raised with a change of the kernels that changes their times

Timer = Callable[[CpuLinear, int, str], float]  # seconds of one product with so many rows


@torch.inference_mode()
def choose_ways(
    linears: Seq[object], table: Path | None, timer: Timer | None = None, *, is_exact: bool = False
) -> None:
    """Set the best way of all CpuLinears among `linears`, a model's, for each number of rows.

    They may round their inputs, unless `is_exact`; those of a small model, and experts, only to 15 bits.
    """
    started = time.perf_counter()
    all_parts = list(chain.from_iterable(map(parts_of, linears)))
    parts = [part for part in all_parts if isinstance(part, CpuLinear)]
    for part in all_parts:
        if isinstance(part, CpuExperts) and not is_exact:
            part.round_inputs()
    is_small = sum(num_bytes_of(part) for part in all_parts) < SMALL_BYTES
    groups = defaultdict(list)
    for part in parts:
        if not is_exact:
            part.round_inputs("fine" if is_small else "rounded")
        groups[part.name].append(part)
    kept = ProductTable(table, environment())
    num_measured = 0
    for name, group in sorted(groups.items(), key=lambda item: -sum(part.laid_out.num_bytes for part in item[1])):
        ways = [way for way in group[0].all_ways if way in AS_THEY_ARE or not is_exact]
        if is_small:
            ways = [way for way in ways if way != "rounded"]
        for num_rows in ROWS:
            key = f"{name} rows {num_rows} by {', '.join(ways)}"
            choice = kept.find(key)
            if choice is None and time.perf_counter() - started < BUDGET_S:
                choice = (WAYS.index(best_way(measured(group, num_rows, ways, timer or seconds_of))),)
                kept.put(key, choice)
                num_measured += 1
            if choice is not None and len(choice) == 1 and choice[0] in map(WAYS.index, ways):
                for linear in group:
                    linear.ways[num_rows] = WAYS[choice[0]]
    kept.save()
    if groups:
        seconds_taken = time.perf_counter() - started
        logger.info("%d of %d products measured in %.1f s", num_measured, len(groups) * len(ROWS), seconds_taken)


def best_way(seconds: Mapping[str, float]) -> str:
    """The fastest, but "fine" instead of "rounded" where they are about as fast."""
    fastest = min(seconds, key=lambda way: seconds[way])
    return "fine" if fastest == "rounded" and seconds["fine"] <= LOSS * seconds[fastest] else fastest


def measured(group: Seq[CpuLinear], num_rows: int, ways: Seq[str], timer: Timer) -> Mapping[str, float]:
    """Seconds of the fastest try of each way."""
    linears: Iterator[CpuLinear] = cycle(group)
    timer(next(linears), num_rows, ways[0])  # wakes threads
    started, seconds = time.perf_counter(), dict.fromkeys(ways, math.inf)
    for num_tries in range(MOST_TRIES):
        fastest = min(seconds.values())
        for way in ways:
            if num_tries < LEAST_TRIES or seconds[way] <= HOPELESS * fastest:
                seconds[way] = min(seconds[way], timer(next(linears), num_rows, way))
        if num_tries + 1 >= LEAST_TRIES and time.perf_counter() - started > TRIES_S:
            break
    return seconds


def seconds_of(linear: CpuLinear, num_rows: int, way: str) -> float:
    """Of the processor's time for one product: what other programs take of it does not count."""
    inputs = torch.randn(num_rows, linear.laid_out.num_in, generator=torch.Generator().manual_seed(0))
    inputs = inputs.to(linear.laid_out.dtype)
    started = time.process_time()
    linear.compute(inputs, way)
    return time.process_time() - started


def num_bytes_of(part: object) -> int:
    """Of packed weights; 0 of what is none."""
    if isinstance(part, CpuExperts):
        return part.num_bytes
    return part.laid_out.num_bytes if isinstance(part, CpuLinear) else 0


def environment() -> str:
    """What the times depend on besides the product."""
    features = sha256(processor_features().encode()).hexdigest()[:12]
    return f"cpu {features}, {torch.get_num_threads()} threads, torch {torch.__version__}, format {FORMAT}"
