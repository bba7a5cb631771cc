"""How fast the engine is on a GPU, how much memory it takes and how soon it is ready: the part `speed` of bench.gpu."""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch

from bench.engine import measure
from bench.gpu_bench import Bench, recorded_steps
from bench.report import percentile
from bench.roofline import decoding, kv_bytes, seconds_of, step_times
from common.wire import Delta, GenerationRequest, SamplingParams
from worker.engine.engine import Engine

GIB = 2**30
NUM_ARRIVALS = 3  # of a prompt beside streams; the first may load kernels
SAMPLINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "greedy": {},
        "temperature": {"temperature": 1.0},
        "top_p 0.9": {"temperature": 1.0, "top_p": 0.9},
        "top_k 40": {"temperature": 1.0, "top_k": 40},
        "penalties": {"presence_penalty": 0.5, "repetition_penalty": 1.1},
        "5 logprobs": {"logprobs": 5},
    }
)


def start(bench: Bench) -> None:
    """Seconds of each stage until the engine is ready, and the memory then."""
    engine, report = bench.engine, bench.report
    kinds = Counter(step.shape.kind for step in recorded_steps(engine))
    recorded = ", ".join(f"{num} {kind}" for kind, num in kinds.items()) or "no steps"
    report.say(f"{type(engine.runner).__name__}, recorded: {recorded}; {engine.card.max_model_len} tokens\n")
    report.columns("stage", "s")
    for stage, seconds in {"process and imports": bench.import_s, **bench.start.stages}.items():
        report.row(stage, seconds)
        report.number(f"start/{stage} s", seconds)
    report.number("start/all s", bench.import_s + sum(bench.start.stages.values()))
    cache = engine.runner.kv_cache
    pools = sum(pool.nbytes for pool in (*cache.keys, *cache.values))
    memory = {"weights that a step reads": bench.weights / GIB, "KV cache": pools / GIB}
    if bench.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(bench.device)
        held = torch.cuda.memory_reserved(bench.device)
        memory |= {"held by torch, graphs and all": held / GIB, "free": free / GIB, "of the GPU": total / GIB}
    report.say("")
    report.columns("", "GiB")
    for name, size in memory.items():
        report.row(name, size)
        report.number(f"memory/{name} GiB", size)
    report.say(f"\n{cache.pool.num_blocks} blocks of {cache.block_size} tokens, {kv_bytes(engine)} bytes a token")


def decode_steps(bench: Bench) -> None:
    """Steps of several streams against the time that reading takes."""
    bandwidth = bench.read_bandwidth()
    bench.free()
    steps_table(bench, [(batch, bench.sizes.context) for batch in bench.sizes.batches], bandwidth)


def long_contexts(bench: Bench) -> None:
    bandwidth = bench.read_bandwidth()
    bench.free()
    steps_table(bench, bench.sizes.long, bandwidth)


def steps_table(bench: Bench, shapes: Any, bandwidth: float) -> None:
    report = bench.report
    report.columns("streams", "context", "p50 ms", "predicted", "p90 ms", "tokens/s", "at the bandwidth ms", "share")
    for batch, context in shapes:
        times = step_times(bench.engine, batch, context, bench.sizes.steps)
        middle = statistics.median(times)
        least = (bench.weights + batch * context * kv_bytes(bench.engine)) / bandwidth
        key = f"step/{batch}x{context}"
        late = percentile(times, 0.9)
        expected = report.predicted(f"{key}/p50 ms")
        report.row(
            batch, context, middle * 1e3, expected, late * 1e3, batch / middle, least * 1e3, f"{least / middle:.0%}"
        )
        report.number(f"{key}/p50 ms", middle * 1e3, steps=len(times))
        report.number(f"{key}/p90 ms", late * 1e3)
        report.number(f"{key}/tokens/s", batch / middle)
        report.number(f"{key}/share", least / middle)


@contextmanager
def in_turn(engine: Engine) -> Iterator[None]:
    """No step of the engine overlaps another in here."""
    overlaps, engine.overlaps = engine.overlaps, False
    yield
    engine.overlaps = overlaps


def shares(bench: Bench) -> None:
    """The recorded part of a step and the rest, overlapped and in turn."""
    report, num_steps = bench.report, bench.sizes.steps
    report.columns("streams", "recorded for", "recording alone ms", "step overlapped ms", "in turn ms")
    for batch in bench.sizes.batches:
        overlapped = statistics.median(step_times(bench.engine, batch, bench.sizes.context, num_steps))
        with in_turn(bench.engine):
            whole = statistics.median(step_times(bench.engine, batch, bench.sizes.context, num_steps))
        report.number(f"shares/{batch}/overlapped ms", overlapped * 1e3)
        report.number(f"shares/{batch}/in turn ms", whole * 1e3)
        step = next((step for step in recorded_steps(bench.engine) if decodes(step, batch)), None)
        if step is None:
            report.row(batch, "none", "", overlapped * 1e3, whole * 1e3)
            continue
        alone = statistics.median(seconds_of(step.replay, bench.device, num_steps))
        report.row(batch, step.shape.num_seqs, alone * 1e3, overlapped * 1e3, whole * 1e3)
        report.number(f"shares/{batch}/recording alone ms", alone * 1e3)


def decodes(step: Any, batch: int) -> bool:
    """True for a recorded step of single tokens that holds so many sequences."""
    return bool(step.shape.kind == "decode steps" and step.shape.num_seqs >= batch)


def sampling(bench: Bench) -> None:
    """A step of many streams by sampling parameters, and the number of waits for the GPU besides reading tokens."""
    batch = bench.sizes.few[1]
    bench.report.columns(f"{batch} streams", "ms a step", "waits a step")
    for at, (name, asked) in enumerate(SAMPLINGS.items()):
        times = step_times(bench.engine, batch, bench.sizes.context // 2 + at, bench.sizes.steps, **asked)
        middle, num_waits = statistics.median(times) * 1e3, waits(bench, batch, **asked)
        bench.report.row(name, middle, num_waits)
        bench.report.number(f"sampling/{name}/p50 ms", middle, waits=num_waits)


def waits(bench: Bench, batch: int, **asked: Any) -> float:
    """The waits for the GPU that torch warns of, a step."""
    num_steps = min(10, bench.sizes.steps)
    with decoding(bench.engine, batch, 16, num_steps, **asked), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(num_steps):
                bench.engine.step()
        finally:
            if bench.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return len([warning for warning in caught if "synchroniz" in str(warning.message)]) / num_steps


def throughput(bench: Bench) -> None:
    """Closed loop: so many callers, each with a new prompt as soon as its answer ends."""
    report, sizes = bench.report, bench.sizes
    report.say(f"prompts of {sizes.prompt} tokens, answers of {sizes.answer}\n")
    report.columns("streams", "tokens/s", "predicted", "first token p50 ms", "gap p50 ms", "gap p99 ms")
    for streams, num_requests in sizes.streams.items():
        found = measure(bench.engine, streams, num_requests, sizes.prompt, sizes.answer)
        key = f"throughput/{streams}"
        expected = report.predicted(f"{key}/tokens/s")
        report.row(streams, found["tokens/s"], expected, found["first p50"], found["gap p50"], found["gap p99"])
        for name, value in found.items():
            report.number(f"{key}/{name}", value)


def first_token(bench: Bench) -> None:
    """From adding a prompt to an idle engine to its first token."""
    report, num_tokens = bench.report, bench.sizes.prompt
    times = []
    for at in range(8):
        started = time.perf_counter()
        with arrived(bench.engine, f"first-{at}", at, num_tokens, 1) as request_id:
            while not tokens_for(bench.engine, request_id):
                pass
            times.append((time.perf_counter() - started) * 1e3)
        while bench.engine.has_work:  # a step may be in flight
            bench.engine.step()
    middle, late = statistics.median(times), percentile(times, 0.9)
    report.columns("prompt tokens", "p50 ms", "predicted", "p90 ms", "tokens/s")
    expected = report.predicted(f"first token/{num_tokens}/p50 ms")
    report.row(num_tokens, middle, expected, late, num_tokens / middle * 1e3)
    report.number(f"first token/{num_tokens}/p50 ms", middle)
    report.number(f"first token/{num_tokens}/p90 ms", late)


def mixed(bench: Bench) -> None:
    """Gaps between the tokens of streams that decode, before and while a prompt is read beside them; tried anew."""
    report, engine, batch = bench.report, bench.engine, bench.sizes.few[1]
    report.columns(
        f"prompt beside {batch} streams",
        "gap before ms",
        "steps",
        "largest ms",
        "predicted",
        "first ms",
        "largest at first",
    )
    for num_tokens in bench.sizes.arriving:
        with decoding(engine, batch, bench.sizes.context // 2, 8 * bench.sizes.steps):
            before = statistics.median(timed_step(engine) for _ in range(bench.sizes.steps))
            tries = [
                steps_beside(engine, f"late-{num_tokens}-{at}", num_tokens + at, num_tokens)  # no prompt is cached
                for at in range(NUM_ARRIVALS)
            ]
        largest = [max(times) for times in tries]
        key = f"mixed/{num_tokens}"
        expected = report.predicted(f"{key}/largest gap ms")
        middle, first = statistics.median(largest), statistics.median(map(sum, tries))
        report.row(num_tokens, before, len(tries[0]), middle, expected, first, largest[0])
        report.number(f"{key}/gap before ms", before)
        report.number(f"{key}/largest gap ms", middle, at_first=largest[0], steps=len(tries[0]))
        report.number(f"{key}/first token ms", first)


def steps_beside(engine: Engine, request_id: str, seed: int, num_tokens: int) -> list[float]:
    """Milliseconds of the steps from the arrival of a prompt to its first token."""
    times = []
    with arrived(engine, request_id, 100 + seed, num_tokens, 2):
        is_there = False
        while not is_there:
            started = time.perf_counter()
            is_there = tokens_for(engine, request_id)
            times.append((time.perf_counter() - started) * 1e3)
    return times


def timed_step(engine: Engine) -> float:
    started = time.perf_counter()
    engine.step()
    return (time.perf_counter() - started) * 1e3


def tokens_for(engine: Engine, request_id: str) -> bool:
    """One step; True if the request got a token."""
    return any(found == request_id and isinstance(event, Delta) for found, event in engine.step())


@contextmanager
def arrived(engine: Engine, request_id: str, seed: int, num_tokens: int, num_answer: int) -> Iterator[str]:
    """Within this, the engine has one request more, whose prompt no other shares."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(4, engine.card.vocab_size, (num_tokens,), generator=generator).tolist()
    asked = SamplingParams(max_tokens=num_answer, seed=0, temperature=0.0, ignore_eos=True)
    engine.add(GenerationRequest(request_id, "bench", tuple(prompt), asked))
    yield request_id
    engine.cancel(request_id)
