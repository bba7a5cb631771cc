"""The products of a layer: torch against each configuration of our kernels, for every form of weights."""

import time
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from bench.gpu_alone import alone_seconds, can_run_triton
from bench.gpu_bench import Bench
from bench.gpu_model import SHAPES

if TYPE_CHECKING:
    from worker.kernels.gpu.products import ProductConfig
    from worker.kernels.tuning import ProductLinear, TimedProduct

LONGEST_S = 90.0  # most of it compiles; each configuration takes 1 to 3 s when it is first met
KINDS = ("dense", "int8", "int4", "fp8", "fp8_blocks")


def shapes_of(shape: str) -> list[tuple[int, int]]:
    """(out, in) of a layer's products; for the tiny shape the first one."""
    sizes = SHAPES[shape]
    hidden, mlp = sizes["hidden_size"], sizes["intermediate_size"]
    dim = hidden // sizes["num_attention_heads"]
    qkv = (sizes["num_attention_heads"] + 2 * sizes["num_key_value_heads"]) * dim
    shapes = [(qkv, hidden), (hidden, hidden), (2 * mlp, hidden), (hidden, mlp)]
    return shapes if shape == "8b" else shapes[:1]


def products(bench: Bench) -> None:
    """A row for each product: the fastest configuration. Every configuration is a line in the file."""
    if not can_run_triton(bench):
        return
    from worker.kernels.tuning import measured_products, seconds_on_gpu

    def seconds_on_cpu(group: "Sequence[ProductLinear]", num_rows: int, config: "ProductConfig | None") -> float:
        inputs = torch.zeros(num_rows, group[0].weights.num_in, dtype=torch.bfloat16)
        return alone_seconds([lambda: group[0].compute(inputs, config)], bench.device)

    on_gpu = bench.device.type == "cuda"
    rows = (1, 4, 16) if bench.shape == "8b" else (3,)
    began = time.perf_counter()
    bandwidth = bench.read_bandwidth()
    bench.report.columns("weights", "out x in", "rows", "torch us", "best us", "GB/s", "of the bandwidth", "best")
    timer = seconds_on_gpu if on_gpu else seconds_on_cpu
    measured = measured_products(shapes_of(bench.shape), KINDS, rows, bench.device, timer)
    for name, of_product in groupby(measured, name_of):
        report_product(bench, name, list(of_product), bandwidth)
        if time.perf_counter() - began > LONGEST_S:
            bench.report.say("no time left for the others")
            break


def name_of(timed: "TimedProduct") -> str:
    return f"{timed.kind} {timed.num_out}x{timed.num_in} rows {timed.num_rows}"


def report_product(bench: Bench, name: str, measured: "Sequence[TimedProduct]", bandwidth: float) -> None:
    best = min(measured, key=lambda timed: timed.seconds)
    for timed in measured:
        way = "torch" if timed.config is None else str(timed.config)
        bench.report.number(f"product/{name}/us", timed.seconds * 1e6, way=way, is_best=timed is best)
    torchs = [f"{timed.seconds * 1e6:.1f}" for timed in measured if timed.config is None]
    speed = best.num_bytes / best.seconds
    bench.report.row(
        best.kind, f"{best.num_out} x {best.num_in}", best.num_rows, *(torchs or [""]), f"{best.seconds * 1e6:.1f}",
        speed / 1e9, f"{speed / bandwidth:.1%}", "torch" if best.config is None else short(best.config),
    )  # fmt: skip


def short(config: "ProductConfig") -> str:
    kernel = f"{config.block_m} rows" if config.block_m else "vector"
    parts = f", {config.num_parts} parts" if config.num_parts > 1 else ""
    return f"{kernel}, {config.block_n} x {config.block_k}{parts}, {config.num_warps} warps, {config.num_stages} stages"
