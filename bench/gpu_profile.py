"""What steps consist of: kernels of recorded ones, by torch.profiler, and Python's functions in unrecorded ones."""

import cProfile
import pstats
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from bench.gpu_bench import Bench
from bench.gpu_speed import steps_beside
from bench.roofline import decoding

NUM_STEPS = 3
NUM_ROWS = 25
NUM_FUNCTIONS = 20
WIDTH = 90  # characters of a kernel's name


def profile(bench: Bench) -> None:
    """Decode steps, then those of a prompt that is read beside streams."""
    engine, num_layers = bench.engine, max(1, len(bench.engine.runner.kv_cache.shapes))
    for batch in bench.sizes.few:
        with decoding(engine, batch, bench.sizes.context, 4 * NUM_STEPS):
            engine.step()
            rows = kernels_during(bench, lambda: [engine.step() for _ in range(NUM_STEPS)])
        print_kernels(bench, f"{batch} streams", rows, NUM_STEPS)
        in_layers = sum(count // (NUM_STEPS * num_layers) for _, count, _ in rows)
        in_all = sum(count for _, count, _ in rows) / NUM_STEPS
        bench.report.say(f"\n{in_layers} kernels a layer, {in_all:.0f} a step")
        bench.report.number(f"kernels a layer/{batch}", in_layers)
        bench.report.number(f"kernels a step/{batch}", in_all)
    batch, num_tokens = bench.sizes.few[1], bench.sizes.arriving[0]
    with decoding(engine, batch, bench.sizes.context, 8 * NUM_STEPS):
        steps_beside(engine, "first", 51, num_tokens)  # prompts that no other section has: they would be cached
        rows = kernels_during(bench, lambda: steps_beside(engine, "second", 52, num_tokens))
    print_kernels(bench, f"a prompt of {num_tokens} tokens beside {batch} streams", rows, 1)
    with decoding(engine, batch, bench.sizes.context, 8 * NUM_STEPS):
        steps_beside(engine, "third", 53, bench.sizes.arriving[-1])
        print_functions(bench, f"a prompt of {bench.sizes.arriving[-1]} tokens beside {batch} streams")


def print_functions(bench: Bench, title: str) -> None:
    """Where the processor's time goes in steps that are too large to be recorded."""
    profiler = cProfile.Profile()
    times = profiler.runcall(steps_beside, bench.engine, "fourth", 54, bench.sizes.arriving[-1])
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    report = bench.report
    report.say(f"\n{title}: steps of {', '.join(f'{ms:.1f}' for ms in times)} ms, by Python's functions\n")
    report.columns("ms", "calls", "function")
    rows = sorted(((own, calls, place) for place, (_, calls, own, *_) in stats.items()), reverse=True)
    for own, calls, (path, line, name) in rows[:NUM_FUNCTIONS]:
        report.row(own * 1e3, calls, f"{'/'.join(path.split('/')[-2:])}:{line} {name}"[:WIDTH])


def kernels_during(bench: Bench, run: Callable[[], object]) -> list[tuple[str, int, float]]:
    """See kernels_of()."""
    on_gpu = bench.device.type == "cuda"
    bench.synchronize()
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        run()
        bench.synchronize()
    rows = kernels_of(profiler, on_gpu=on_gpu)
    assert rows, "the profiler saw no kernels"
    return rows


def print_kernels(bench: Bench, title: str, rows: list[tuple[str, int, float]], num_steps: int) -> None:
    report = bench.report
    total_us = sum(us for _, _, us in rows)
    report.say(f"\n{title}: kernels of {total_us / num_steps / 1e3:.2f} ms\n")
    report.columns("us a step", "share", "a step", "us each", "kernel")
    for name, count, us in rows[:NUM_ROWS]:
        report.row(us / num_steps, f"{us / total_us:.1%}", count / num_steps, us / count, name[:WIDTH])
        report.line({"kernel": name, "in": title, "us a step": us / num_steps, "a step": count / num_steps})
    report.number(f"kernels/{title}/ms", total_us / num_steps / 1e3)


def kernels_of(profiler: Any, *, on_gpu: bool) -> list[tuple[str, int, float]]:
    """(name, calls, microseconds of all calls), the longest first. On a CPU its operators."""
    wanted = "CUDA" if on_gpu else "CPU"
    rows = []
    for event in profiler.key_averages():
        us = float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        if event.device_type.name == wanted and us > 0:
            rows.append((str(event.key), int(event.count), us))
    return sorted(rows, key=lambda row: -row[2])
