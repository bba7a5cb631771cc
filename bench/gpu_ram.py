"""Experts in host memory beside a GPU: the way there, the experts alone, and steps of a slice of DeepSeek-V3.2."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from bench.gpu_alone import error_of
from bench.gpu_bench import Bench, recorded_steps
from bench.gpu_ram_model import Experts, configs, hosted_of, sparse_model, work_of
from bench.gpu_speed import in_turn
from bench.roofline import decoding, seconds_of, step_times
from worker.device import usable_cores
from worker.kernels.experts.form import plain_weights
from worker.kernels.experts.host_work import CallTimes, address_of, num_threads
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.experts.placing import HostedExperts
from worker.kernels.experts.ram import RamExperts
from worker.runners.recorded.capture import cuda_capture
from worker.runners.sequential import SequentialRunner

ROUNDING = 0.08  # two products and an activation between them, in bf16
FORM = "int4"  # of the slice
FEW_LAYERS = 2  # of the experts alone
STREAMED_ROWS = (64, 256, 1024, 4096)
COPY_BYTES = 2**28
CONTEXT = 256  # tokens before a measured step: prompts cost seconds here
STEP_TOKENS = 1024  # of a step, at most
HYBRID_SHARE = 0.45  # of the GPU's memory: for some experts, not for all


def link(bench: Bench) -> None:
    """The speed of memory and of the link, and what a layer's way to the CPU and back takes."""
    is_gpu, report = bench.device.type == "cuda", bench.report
    report.say(
        f"{usable_cores()} cores, {num_threads(None)} threads for experts, torch has {torch.get_num_threads()}\n"
    )
    report.columns("copy", "GB/s")
    size = COPY_BYTES if is_gpu else 2**20
    host = torch.ones(size, dtype=torch.uint8, pin_memory=is_gpu)
    plain, card = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8, device=bench.device)
    ways = {
        "pinned to the GPU": (card, host, True), "GPU to pinned": (host, card, True),
        "plain to the GPU": (card, plain, False), "plain to pinned, all threads": (host, plain, False),
    }  # fmt: skip
    for name, (target, source, is_async) in ways.items():
        times = timed(bench, partial(target.copy_, source, non_blocking=is_async), 5)
        report.row(name, size / min(times) / 1e9)
        report.number(f"ram/link/{name}/GB/s", size / min(times) / 1e9)
    read = torch.ones(size, dtype=torch.float32)
    seconds = min(timed(bench, read.sum, 8))
    report.row("host memory read by torch", read.nbytes / seconds / 1e9)
    report.number("ram/host read/GB/s", read.nbytes / seconds / 1e9)
    made = few(bench, FORM)
    layers, call = made.in_ram(), made.inputs(1)
    with nothing_computed(layers, bench):
        for name, replay in (
            ("recorded", recorded(bench, layers, call, 8)),
            ("unrecorded", plain_calls(layers, call, 8)),
        ):
            us = min(timed(bench, replay, 10)) / (8 * len(layers)) * 1e6
            last = all_times(layers)[-4 * len(layers) :]
            wakes = [statistics.median(each.began - each.node_began for each in last) / 1e3]
            wakes.append(statistics.median(each.node_ended - each.ended for each in last) / 1e3)
            report.say(
                f"\n{us:.1f} us a layer from the GPU to the CPU's thread and back, {name}; of these, {wakes[0]:.1f} "
                f"until the thread begins, {wakes[1]:.1f} until the node ends"
            )
            report.number(f"ram/way/{name}/us", us)


def experts(bench: Bench) -> None:
    """Right sums, then GB/s by rows, by form and by threads, and where copying the weights pays."""
    report = bench.report
    rows = (1, 2, 4, 8, 16, 32, 64) if bench.shape == "8b" else (1, 3)
    report.columns("form", "rows", "error", "ms a layer", "ms on the CPU", "GB/s of the experts", "recorded")
    wrong = []
    for form in ("int4", "fp8"):
        made = few(bench, form)
        layers = made.in_ram()
        for num_rows in rows:
            call = made.inputs(num_rows, seed=num_rows)
            error = checked(made, layers[0], call) if num_rows <= 4 else float("nan")
            wrong += [(form, num_rows, error)] if error > ROUNDING else []
            measure_rows(bench, made, layers, call, form, error)
    if bench.device.type == "cuda":
        threads(bench)
    streaming(bench)
    assert not wrong, f"wrong sums: {wrong}"


def measure_rows(
    bench: Bench, made: Experts, layers: list[RamExperts], call: tuple[torch.Tensor, ...], form: str, error: float
) -> None:
    num_rows = len(call[0])
    distinct = len(torch.unique(call[1]))
    replay = recorded(bench, layers, call, 4)
    replay()
    bench.synchronize()
    before = len(all_times(layers))
    seconds = statistics.median(timed(bench, replay, 5)) / (4 * len(layers))
    on_cpu = median_s(all_times(layers)[before:] or all_times(layers))
    speed = distinct * made.expert_bytes / on_cpu / 1e9
    is_recorded = bench.device.type == "cuda"
    bench.report.row(form, num_rows, f"{error:.2g}", seconds * 1e3, on_cpu * 1e3, speed, is_recorded)
    key = f"ram/experts/{form}/{num_rows}"
    bench.report.number(f"{key}/ms", seconds * 1e3, cpu_ms=on_cpu * 1e3, experts=distinct)
    bench.report.number(f"{key}/GB/s", speed)


def threads(bench: Bench) -> None:
    """One row by numbers of threads."""
    made, cores = few(bench, FORM), usable_cores()
    layers, call = made.in_ram(), made.inputs(1)
    bench.report.say("")
    bench.report.columns("threads", "ms on the CPU", "GB/s")
    usual = num_threads(None)
    for num in sorted({cores // 2, cores - 4, cores - 2, usual, cores} - {0}):
        for layer in made.layers:
            layer.c_layer.num_threads = num
        for _ in range(3):
            plain_calls(layers, call, 4)()
        bench.synchronize()
        last = all_times(layers)[-8 * len(layers) :]
        seconds = median_s(last)
        speed = made.top_k * made.expert_bytes / seconds / 1e9
        bench.report.row(num, seconds * 1e3, speed)
        bench.report.number(f"ram/threads/{num}/GB/s", speed)
    for layer in made.layers:
        layer.c_layer.num_threads = usual


def streaming(bench: Bench) -> None:
    """Many rows by the CPU, and by the GPU with weights that are copied to it."""
    made = few(bench, FORM)
    layer = made.in_ram()[0]
    assert layer.streamed is not None
    bench.report.say("")
    bench.report.columns("rows", "error", "ms by the CPU", "ms copied", "GB/s of the copies")
    for num_rows in STREAMED_ROWS if bench.shape == "8b" else (8,):
        call = made.inputs(num_rows)
        layer.streamed(*call)
        copied = call[3].clone()
        by_copies = min(timed(bench, partial(layer.streamed, *call), 2))
        by_cpu = min(timed(bench, partial(layer, *call), 1)) if num_rows <= 1024 else float("nan")
        error = error_of(copied, call[3]) if num_rows <= 1024 else float("nan")
        speed = layer.experts.num_bytes / by_copies / 1e9
        bench.report.row(num_rows, f"{error:.2g}", by_cpu * 1e3, by_copies * 1e3, speed)
        bench.report.number(f"ram/streamed/{num_rows}/ms", by_copies * 1e3, cpu_ms=by_cpu * 1e3, speed=speed)
        assert not error > ROUNDING, f"streamed sums differ by {error}"


def steps(bench: Bench) -> None:
    """Decode steps of the slice, all experts in host memory."""
    few.cache_clear()
    bench.free()
    name, engine, hosted, made = sliced(bench)
    bench.report.say(
        f"{name} by {type(engine.runner).__name__}, {len(recorded_steps(engine))} recorded steps, "
        f"{made.num_layers} sparse layers, {made.num_bytes / 2**30:.1f} GiB of experts in {made.form}\n"
    )
    steps_table(bench, engine, hosted, made, "ram")
    for batch in batches(bench)[:2]:
        overlap(bench, engine, hosted, batch)


def hybrid(bench: Bench) -> None:
    """The same with some experts of each layer on the GPU."""
    name, made = sliced(bench)[0], all_of(bench)
    sliced.cache_clear()  # a runner has taken the model's weights for its own
    bench.free()
    model = model_of(bench, name)
    engine = engine_of(bench, model, experts="auto", gpu_memory_utilization=HYBRID_SHARE)
    hosted = hosted_of(engine, model, bench.device)
    if bench.device.type != "cuda":
        hosted.fill_card(made.num_bytes // 2)
    cards = [layer.card for layer in hosted.layers if layer.card is not None]
    share = sum(len(card.ids) for card in cards) / (made.num_experts * len(hosted.layers))
    bench.report.say(
        f"{share:.0%} of the experts are on the GPU too, {sum(c.num_bytes for c in cards) / 2**30:.1f} GiB\n"
    )
    bench.report.number("ram/hybrid/share", share)
    steps_table(bench, engine, hosted, made, "hybrid")


def steps_table(bench: Bench, engine: Any, hosted: HostedExperts, made: Experts, kind: str) -> None:
    report, sizes = bench.report, bench.sizes
    report.columns(
        "streams", "p50 ms", "tokens/s", "without experts ms", "experts on the CPU ms", "hidden ms", "GB/s", "experts"
    )
    for batch in batches(bench):
        middle = statistics.median(step_times(engine, batch, context(bench), max(3, sizes.steps // 3)))
        on_cpu, distinct = one_step(bench, engine, hosted, batch)
        with nothing_computed(hosted.layers, bench):
            without = statistics.median(step_times(engine, batch, context(bench), max(3, sizes.steps // 3)))
        hidden = without + on_cpu - middle
        speed = distinct * made.expert_bytes / on_cpu / 1e9 if on_cpu else 0.0
        shown = [seconds * 1e3 for seconds in (without, on_cpu, hidden)]
        report.row(batch, middle * 1e3, batch / middle, *shown, speed, distinct)
        key = f"ram/{kind}/{batch}"
        report.number(f"{key}/p50 ms", middle * 1e3, without=shown[0], cpu=shown[1], hidden=shown[2])
        report.number(f"{key}/tokens/s", batch / middle)
        report.number(f"{key}/GB/s", speed, experts=distinct)


def one_step(bench: Bench, engine: Any, hosted: HostedExperts, batch: int) -> tuple[float, int]:
    """Seconds that the CPU computed experts in one step, and how many experts it read, over all layers."""
    with in_turn(engine), decoding(engine, batch, context(bench), 12):
        engine.step()
        found = []
        for _ in range(4):
            bench.synchronize()
            before, num = [layer.uses.clone() for layer in hosted.layers], hosted.layers[0].work.num_calls
            engine.step()
            bench.synchronize()
            last = hosted.layers[0].work.num_calls - num
            times = all_times(hosted.layers)[-last:] if last else []
            uses = [layer.uses - old for layer, old in zip(hosted.layers, before, strict=True)]
            num_read = 0
            for layer, own in zip(hosted.layers, uses, strict=True):
                here = torch.ones_like(own) if layer.card is None else 1 - layer.card.is_elsewhere.long()
                num_read += int(((own > 0) & (here > 0)).sum())
            found.append((sum(each.ended - each.began for each in times) / 1e9, num_read))
    return sorted(found)[len(found) // 2]


def overlap(bench: Bench, engine: Any, hosted: HostedExperts, batch: int) -> None:
    """GPU kernels that ran while the CPU computed experts, by the profiler's clock and that of the CPU's thread."""
    on_gpu = bench.device.type == "cuda"
    with decoding(engine, batch, context(bench), 16):
        engine.step()
        bench.synchronize()
        num = hosted.layers[0].work.num_calls
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
            started = time.time_ns()
            for _ in range(3):
                engine.step()
            bench.synchronize()
            seconds = (time.time_ns() - started) / 1e9
        last = hosted.layers[0].work.num_calls - num
    spans = [(each.began, each.ended) for each in all_times(hosted.layers)[-last:]]
    results: Any = profiler.profiler
    gpu = [
        (event.start_ns(), event.start_ns() + event.duration_ns(), event.name())
        for event in results.kineto_results.events()
        if not on_gpu or "CUDA" in str(event.device_type())
    ]
    kernels = [(start, stop) for start, stop, name in gpu if not name.startswith(("Memcpy", "Memset"))]
    both = sum(shared((start, stop), spans) for start, stop in kernels)
    busy, cpu = sum(stop - start for start, stop in kernels), sum(stop - start for start, stop in spans)
    bench.report.say(
        f"\n{batch} streams, 3 steps in {seconds * 1e3:.1f} ms: the CPU computed experts for {cpu / 1e6:.1f} ms, "
        f"the GPU ran {len(kernels)} kernels for {busy / 1e6:.1f} ms, {both / 1e6:.1f} ms of them at the same time, "
        f"and {len(gpu) - len(kernels)} copies"
    )
    bench.report.number(f"ram/overlap/{batch}/ms", both / 1e6, busy=busy / 1e6, cpu=cpu / 1e6, all=seconds * 1e3)


def shared(span: tuple[int, int], others: list[tuple[int, int]]) -> int:
    return sum(max(0, min(span[1], stop) - max(span[0], start)) for start, stop in others)


@cache
def few(bench: Bench, form: str) -> Experts:
    return Experts(bench, form, FEW_LAYERS)


@cache
def all_of(bench: Bench) -> Experts:
    started = time.perf_counter()
    made = Experts(bench, FORM, 15 if bench.shape == "8b" else 2)
    seconds = time.perf_counter() - started
    bench.report.say(f"made {made.num_bytes / 2**30:.1f} GiB of experts in {seconds:.1f} s")
    return made


def model_of(bench: Bench, name: str) -> Any:
    return sparse_model(dict(configs(bench))[name], all_of(bench))


@cache
def sliced(bench: Bench) -> tuple[str, Any, HostedExperts, Experts]:
    """The first family that runs many sequences in a step, its engine and its experts."""
    unrecorded: set[str] = set()
    for name, _ in configs(bench):
        if unrecorded and name == "deepseek_v3":  # the same runner
            continue
        try:
            model = model_of(bench, name)
            engine = engine_of(bench, model, experts="ram")
            assert not isinstance(engine.runner, SequentialRunner), "it runs one sequence at a time"
            if bench.device.type == "cuda" and not recorded_steps(engine):
                unrecorded.add(name)
                steps_table(bench, engine, hosted_of(engine, model, bench.device), all_of(bench), f"{name} unrecorded")
                raise AssertionError("its steps are not recorded")
            return name, engine, hosted_of(engine, model, bench.device), all_of(bench)
        except Exception as failure:  # families that this machine's libraries lack, or that no runner of ours runs
            bench.report.say(f"not {name}: {type(failure).__name__}: {str(failure)[:300]}")
        model = engine = None  # before the next one is made
        bench.free()
    raise AssertionError("no family runs")


def engine_of(bench: Bench, model: Any, **settings: Any) -> Any:
    return bench.engine_of(model, max_num_seqs=max(batches(bench)), max_step_tokens=STEP_TOKENS, **settings)


def context(bench: Bench) -> int:
    return min(bench.sizes.context, CONTEXT)


def batches(bench: Bench) -> tuple[int, ...]:
    return (1, 8, 16) if bench.shape == "8b" else (1, 2)


def timed(bench: Bench, run: Callable[[], object], tries: int) -> list[float]:
    run()
    bench.synchronize()
    return seconds_of(run, bench.device, tries)


def plain_calls(layers: list[RamExperts], call: tuple[torch.Tensor, ...], rounds: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(rounds):
            for layer in layers:
                layer(*call)

    return run


def recorded(bench: Bench, layers: list[RamExperts], call: tuple[torch.Tensor, ...], rounds: int) -> Callable[[], None]:
    """The calls as a recorded step; on a CPU as they are."""
    run = plain_calls(layers, call, rounds)
    return cuda_capture()(run) if bench.device.type == "cuda" else run


@contextmanager
def nothing_computed(layers: Any, bench: Bench) -> Iterator[None]:
    """Within this, calls of these layers go to the CPU and back and compute nothing, recorded ones too."""
    bench.synchronize()
    nothing = address_of(work_of(bench.device).kernels.compute_nothing)
    before = [layer.compute for layer in layers]
    for layer in layers:
        layer.set_compute(nothing)
    try:
        yield
        bench.synchronize()
    finally:
        for layer, function in zip(layers, before, strict=True):
            layer.set_compute(function)


def all_times(layers: Any) -> list[CallTimes]:
    times: list[CallTimes] = layers[0].work.times()
    return times


def median_s(times: list[CallTimes]) -> float:
    """Seconds that the CPU computed, of a call."""
    return statistics.median(each.ended - each.began for each in times) / 1e9


def checked(made: Experts, layer: RamExperts, call: tuple[torch.Tensor, ...]) -> float:
    """Against the chosen experts one by one, from their weights made dense, on the device."""
    hidden, chosen, weights, out = call
    ids = torch.unique(chosen)
    tensors = {name: part[ids.cpu()].to(made.device) for name, part in layer.experts.tensors.items()}
    up, down = plain_weights(layer.experts.form, tensors)
    dense = [matrix.dense() for matrix in (up, down)]
    from worker.kernels.packed.weights import Weights

    wide = [Weights("dense", part.dtype, part.shape[-1], part) for part in dense]
    expected = torch.empty_like(out)
    plain = ExpertLayer(wide[0], wide[1], None, None, layer.experts.form.activation)
    LoopedExperts(plain)(hidden, torch.searchsorted(ids, chosen), weights, expected)
    layer(*call)
    return error_of(out, expected)
