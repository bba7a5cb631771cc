"""Which kernels a decode step consists of, and what each takes: torch.profiler over a few recorded steps."""

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from bench.gpu_bench import Bench
from bench.roofline import decoding

NUM_STEPS = 3
NUM_ROWS = 25
WIDTH = 90  # characters of a kernel's name


def profile(bench: Bench) -> None:
    for batch in bench.sizes.few:
        profile_batch(bench, batch)


def profile_batch(bench: Bench, batch: int) -> None:
    report, engine = bench.report, bench.engine
    on_gpu = bench.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with decoding(engine, batch, bench.sizes.context, 4 * NUM_STEPS):
        engine.step()
        bench.synchronize()
        with torch.profiler.profile(activities=[activity]) as profiler:
            started = time.perf_counter()
            for _ in range(NUM_STEPS):
                engine.step()
            bench.synchronize()
            wall_us = (time.perf_counter() - started) * 1e6
    rows = kernels_of(profiler, on_gpu=on_gpu)
    assert rows, "the profiler saw no kernels"
    num_layers = max(1, len(engine.runner.kv_cache.shapes))
    total_us = sum(us for _, _, us in rows)
    report.say(f"\n{batch} streams, {NUM_STEPS} steps\n")
    report.columns("us a step", "share", "a step", "us each", "kernel")
    for name, count, us in rows[:NUM_ROWS]:
        report.row(us / NUM_STEPS, f"{us / total_us:.1%}", count / NUM_STEPS, us / count, name[:WIDTH])
        report.line({"kernel": name, "batch": batch, "us a step": us / NUM_STEPS, "a step": count / NUM_STEPS})
    in_layers = sum(count // (NUM_STEPS * num_layers) for _, count, _ in rows)
    in_all = sum(count for _, count, _ in rows) / NUM_STEPS
    report.say(f"\n{in_layers} kernels a layer, {in_all:.0f} a step; busy {total_us / wall_us:.0%} of the time")
    report.number(f"kernels a layer/{batch}", in_layers)
    report.number(f"kernels a step/{batch}", in_all)
    report.number(f"busy share/{batch}", total_us / wall_us)


def kernels_of(profiler: Any, *, on_gpu: bool) -> list[tuple[str, int, float]]:
    """(name, calls, microseconds of all calls), the longest first. On a CPU its operators."""
    wanted = "CUDA" if on_gpu else "CPU"
    rows = []
    for event in profiler.key_averages():
        us = float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        if event.device_type.name == wanted and us > 0:
            rows.append((str(event.key), int(event.count), us))
    return sorted(rows, key=lambda row: -row[2])
