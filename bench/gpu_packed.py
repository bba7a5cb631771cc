"""Products with weights as checkpoints pack them: against float32, then alone beside bf16 by torch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from bench.gpu_alone import Checks, alone_seconds, can_run_triton, error_of
from bench.gpu_bench import Bench
from worker.kernels.packed.encodings import WEIGHTS
from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.weights import Weights

if TYPE_CHECKING:
    from worker.kernels.gpu.products import ProductConfig

LONGEST_S = 60.0
ROUNDING = 0.04  # of a result's spread: its rounding to bf16, and that of numbers that are decoded in another order
COMPILERS = 12  # threads
COPIES_BYTES = 1 << 28  # of weights that are read in turn
DTYPE = torch.bfloat16


def random_bytes(*shape: int, device: torch.device, most: int = 256) -> torch.Tensor:
    return torch.randint(0, most, shape, dtype=torch.uint8, device=device)


def random_scales(*shape: int, device: torch.device, size: float) -> torch.Tensor:
    return (torch.rand(shape, device=device) + 0.5).mul_(size).half()


def integers(
    lead: tuple[int, ...], num_out: int, num_in: int, device: torch.device, *, bits: int, group: int, extra: str = ""
) -> Weights:
    shape, places = (*lead, num_out, num_in), (*lead, num_out, num_in // group)
    codes = random_bytes(*shape, device=device, most=1 << bits)
    scales = random_scales(*places, device=device, size=1 / (1 << bits) / num_in**0.5)
    zeros = random_bytes(*places, device=device, most=1 << bits) if extra == "zeros" else None
    minimums = scales * -(1 << bits - 1) if extra == "minimums" else None
    return grouped_weights(codes, scales, group, bits, DTYPE, zeros=zeros, minimums=minimums)


def mxfp4(lead: tuple[int, ...], num_out: int, num_in: int, device: torch.device) -> Weights:
    codes = random_bytes(*lead, num_out, num_in // 2, device=device)
    scales = random_bytes(*lead, num_out, num_in // 32, device=device, most=4) + 118
    return Weights("mxfp4", DTYPE, num_in, codes, scales, group=32)


def quantized(kind: str, lead: tuple[int, ...], num_out: int, num_in: int, device: torch.device) -> Weights:
    weight = torch.empty(num_out, num_in, dtype=DTYPE, device=device).normal_(std=num_in**-0.5)
    made = WEIGHTS[kind](weight)
    return made.map_parts(lambda part: part.expand(*lead, *part.shape).contiguous()) if lead else made


# by the name that a checkpoint's users know
FORMS: Mapping[str, Callable[..., Weights]] = MappingProxyType(
    {
        "bf16": partial(quantized, "dense"),
        "GPTQ, AWQ": partial(integers, bits=4, group=128, extra="zeros"),
        "Q4_K": partial(integers, bits=4, group=32, extra="minimums"),
        "Q4_0": partial(integers, bits=4, group=32),
        "Q6_K": partial(integers, bits=6, group=16),
        "Q8_0": partial(integers, bits=8, group=32),
        "MXFP4": mxfp4,
        "int8": partial(quantized, "int8"),
        "int4": partial(quantized, "int4"),
        "fp8 blocks": partial(quantized, "fp8_blocks"),
    }
)


def forms_of(bench: Bench) -> list[str]:
    return list(FORMS) if bench.shape == "8b" else ["Q4_K"]


def checks(bench: Bench) -> None:
    """Every form in every configuration that a start would measure, against float32."""
    if not can_run_triton(bench):
        return
    shape, rows = ((1024, 4096), (1, 2, 16, 64)) if bench.shape == "8b" else ((64, 128), (3,))
    table = Checks(bench)
    for name in forms_of(bench)[1:] or forms_of(bench):
        weights = FORMS[name]((), *shape, bench.device)
        dense = weights.dense().float()
        wanted = [(num_rows, config) for num_rows in rows for config in configs_of(bench, weights, num_rows)]
        compile_all(bench, weights, wanted)
        for num_rows, config in wanted:
            run = partial(product_error, weights, dense, num_rows, config)
            table.check(f"product {name}", f"{num_rows} rows, {short(config)}", ROUNDING, run)
    table.end()


def product_error(weights: Weights, dense: torch.Tensor, num_rows: int, config: "ProductConfig") -> float:
    from worker.kernels.gpu.products import product

    inputs = torch.randn(num_rows, weights.num_in, dtype=DTYPE, device=dense.device)
    return error_of(product(inputs, weights, None, config), inputs.float() @ dense.t())


def times(bench: Bench) -> None:
    """A row for each form, shape and number of rows: the fastest configuration. All are lines in the file."""
    if not can_run_triton(bench):
        return
    bandwidth, began = bench.read_bandwidth(), time.perf_counter()
    bench.report.columns("weights", "out x in", "rows", "us", "times bf16 by torch", "of the bandwidth", "best")
    shapes, rows = ([(28672, 4096), (4096, 14336)], (1, 4, 16, 64)) if bench.shape == "8b" else ([(64, 128)], (3,))
    baseline: dict[tuple[int, int, int], float] = {}
    for name in dict.fromkeys(("bf16", *forms_of(bench))):
        for num_out, num_in in shapes:
            first = FORMS[name]((), num_out, num_in, bench.device)
            copies = max(1, min(8, COPIES_BYTES // first.num_bytes)) if bench.device.type == "cuda" else 1
            group = [first, *(FORMS[name]((), num_out, num_in, bench.device) for _ in range(copies - 1))]
            wanted = [(num_rows, config) for num_rows in rows for config in configs_of(bench, first, num_rows)]
            compile_all(bench, first, wanted)
            for num_rows in rows:
                key = num_out, num_in, num_rows
                measured = dict(seconds_of_all(bench, name, group, num_rows))
                if name == "bf16":
                    baseline[key] = measured[None]
                best, seconds = min(measured.items(), key=lambda pair: pair[1])
                speed = first.num_bytes / seconds / bandwidth
                bench.report.row(
                    name, f"{num_out} x {num_in}", num_rows, f"{seconds * 1e6:.1f}",
                    f"{baseline[key] / seconds:.2f}", f"{speed:.1%}", "torch" if best is None else short(best),
                )  # fmt: skip
                bench.report.number(
                    f"packed/{name}/{num_out}x{num_in}/{num_rows}/times as fast", baseline[key] / seconds
                )
        if time.perf_counter() - began > LONGEST_S:
            bench.report.say("no time left for the others")
            break


def seconds_of_all(
    bench: Bench, name: str, group: Sequence[Weights], num_rows: int
) -> Iterator[tuple["ProductConfig | None", float]]:
    """Of each configuration; of torch (None) where the weights are dense."""
    from worker.kernels.gpu.products import by_torch, product

    inputs = torch.randn(num_rows, group[0].num_in, dtype=DTYPE, device=bench.device)
    shape = f"{group[0].num_out}x{group[0].num_in}"
    choices = [*([None] if name == "bf16" else []), *configs_of(bench, group[0], num_rows)]
    for config in choices:
        calls = [
            partial(by_torch, inputs, weights, None)
            if config is None
            else partial(product, inputs, weights, None, config)
            for weights in group
        ]
        with suppress(Exception):  # a configuration that does not compile; the checks have told
            seconds = alone_seconds(calls, bench.device)
            way = "torch" if config is None else str(config)
            bench.report.number(f"packed/{name}/{shape}/{num_rows}/us", seconds * 1e6, way=way)
            yield config, seconds


def configs_of(bench: Bench, weights: Weights, num_rows: int) -> list["ProductConfig"]:
    from worker.kernels.gpu.products import configs_for
    from worker.kernels.tuning import num_multiprocessors

    found = list(configs_for(weights, num_rows, num_multiprocessors(bench.device)))
    return found if bench.shape == "8b" else found[:1]


def compile_all(bench: Bench, weights: Weights, wanted: Sequence[tuple[int, "ProductConfig"]]) -> None:
    """Launch each once, in threads: the compiler takes a second or two for each."""
    from worker.kernels.gpu.products import product

    if bench.device.type == "cuda":
        run_once(
            partial(product, torch.zeros(rows, weights.num_in, dtype=DTYPE, device=bench.device), weights, None, config)
            for rows, config in wanted
        )


def run_once(calls: Any) -> None:
    """All calls in threads; those that fail fail again where they are measured."""

    def run(call: Callable[[], object]) -> None:
        with suppress(Exception):
            call()

    with ThreadPoolExecutor(COMPILERS) as pool:
        list(pool.map(run, calls))


def short(config: "ProductConfig") -> str:
    kernel = f"{config.block_m} rows" if config.block_m else "vector"
    parts = f", {config.num_parts} parts" if config.num_parts > 1 else ""
    return f"{kernel}, {config.block_n} x {config.block_k}{parts}, {config.num_warps} warps, {config.num_stages} stages"
