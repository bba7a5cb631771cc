"""Decode steps with rounded weights and with a rounded KV cache, against bf16: the part `weights` of bench.gpu.

Each section is an engine of its own, with random weights of the same shape. The bf16 times are those that the part
`speed` has written to the report's file, or are measured here.
"""

import statistics

from bench.gpu_bench import Bench
from bench.gpu_report import measured_in
from bench.roofline import BYTES_PER_WEIGHT, step_times
from worker.engine.engine import Engine
from worker.kernels.quantized import quantization_named


def fp8(bench: Bench) -> None:
    rounded(bench, "fp8")


def int8(bench: Bench) -> None:
    rounded(bench, "int8")


def int4(bench: Bench) -> None:
    rounded(bench, "int4")


def rounded(bench: Bench, name: str) -> None:
    """Steps with weights of this kind."""
    quantization = quantization_named(name)
    assert quantization is not None
    quantization.check("auto", bench.device)
    shapes = [(batch, bench.sizes.context) for batch in bench.sizes.few]
    before = bf16_ms(bench, shapes)
    engine = bench.engine_of(bench.model(), max_num_seqs=max(bench.sizes.few), quantization=quantization)
    bench.report.say(f"{BYTES_PER_WEIGHT[name]:g} bytes a weight of a layer; {type(engine.runner).__name__}\n")
    compare(bench, engine, name, shapes, before, [f"{name}/{batch}" for batch, _ in shapes])


def fp8_kv(bench: Bench) -> None:
    """Steps with much context and an fp8 KV cache."""
    if bench.device.type != "cuda":
        bench.report.say("left out: an fp8 KV cache needs a GPU")
        return
    shapes = [(bench.sizes.few[1], bench.sizes.context), *bench.sizes.long]
    before = bf16_ms(bench, shapes)
    engine = bench.engine_of(bench.model(), max_num_seqs=max(bench.sizes.few), kv_dtype="fp8")
    bench.report.say(f"KV cache of {engine.runner.kv_cache.keys[0].dtype}\n")
    compare(bench, engine, "fp8 kv", shapes, before, [f"fp8 kv/{batch}x{context}" for batch, context in shapes])


def compare(
    bench: Bench, engine: Engine, name: str, shapes: list[tuple[int, int]], before: list[float], keys: list[str]
) -> None:
    report = bench.report
    report.columns("streams", "context", "bf16 ms", f"{name} ms", "times as fast", "predicted")
    for (batch, context), old, key in zip(shapes, before, keys, strict=True):
        new = statistics.median(step_times(engine, batch, context, bench.sizes.steps)) * 1e3
        report.row(batch, context, old, new, old / new, report.predicted(f"{key}/times as fast"))
        report.number(f"{key}/p50 ms", new)
        report.number(f"{key}/times as fast", old / new, bf16_ms=old)


def bf16_ms(bench: Bench, shapes: list[tuple[int, int]]) -> list[float]:
    """Milliseconds of bf16 steps. Frees the engine that measured them here."""
    known = measured_in(bench.report.out)
    found = []
    for batch, context in shapes:
        key = f"step/{batch}x{context}/p50 ms"
        if key not in known:
            times = step_times(bench.engine, batch, context, bench.sizes.steps)
            known[key] = statistics.median(times) * 1e3
            bench.report.number(key, known[key], steps=len(times))
        found.append(known[key])
    bench.release()
    return found
