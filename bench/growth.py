"""The growth of step time with batch and context: `python -m bench.growth [--longest 32768]`.

The engine alone on the tiny shape, whose context is long. Batch: so many sequences decode together. Context: one prompt
is read in chunks up to the longest, then decodes at several lengths. Beside: streams decode on while a longest prompt
comes in; their gaps say what it does to them. Times are the fastest of several steps: others on the machine can only
add to them. "x" columns: time against the row before; where the size doubles, 2 is linear and more is superlinear.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import models
from bench.pictures import Line, Panel, draw
from bench.report import DEFAULT_FOLDER, load_average, machine, percentile, table, write_json
from common.wire import Delta, GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, load

KV_BYTES = 2 * 2**30
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHORTEST = 128
ROOM = 64  # tokens of answer after the longest prompt


@dataclass(frozen=True)
class Step:
    """One engine step: when it ended, its seconds, and the requests that got a token."""

    ended: float
    seconds: float
    tokens_for: frozenset[str]


class Bench:
    """One engine, and prompts without a common prefix unless requested."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self.engine = engine
        self.clock = clock
        self.rng = random.Random(3)
        self.count = 0

    def prompt(self, num_tokens: int) -> tuple[int, ...]:
        return tuple(self.rng.randrange(4, self.engine.card.vocab_size) for _ in range(num_tokens))

    def add(self, prompt: tuple[int, ...], num_output: int) -> str:
        self.count += 1
        sampling = SamplingParams(max_tokens=num_output, seed=0, temperature=0.0, ignore_eos=True)
        self.engine.add(GenerationRequest(f"r{self.count}", "bench", prompt, sampling))
        return f"r{self.count}"

    def step(self) -> Step:
        started = self.clock()
        events = self.engine.step()
        ended = self.clock()
        ids = frozenset(request_id for request_id, event in events if isinstance(event, Delta))
        return Step(ended, ended - started, ids)

    def drain(self) -> list[Step]:
        steps = []
        while self.engine.has_work:
            steps.append(self.step())
        return steps


def engine_of(model: Path, longest: int, threads: int | None) -> Engine:
    config = EngineConfig(
        max_num_seqs=max(BATCHES), max_model_len=longest + ROOM, threads=threads, kv_memory_bytes=KV_BYTES
    )
    return Engine(load(str(model), ("bench",), config, lambda what, share: None), config)


def by_batch(bench: Bench, sizes: Sequence[int], num_steps: int) -> list[tuple[float, float]]:
    """(batch, ms of a step in which all of them decode). Short prompts, else the first are long when the last come."""
    points = []
    for size in sizes:
        ids = frozenset(bench.add(bench.prompt(16), 4096) for _ in range(size))
        full: list[float] = []
        while len(full) < num_steps:
            step = bench.step()
            full += [step.seconds] if step.tokens_for == ids else []
        for request_id in ids:
            bench.engine.cancel(request_id)
        points.append((float(size), min(full) * 1000))
        print(f"batch {size}: {points[-1][1]:.2f} ms", flush=True)
    return points


def by_context(bench: Bench, longest: int, num_steps: int) -> tuple[Line, Line]:
    """(tokens before, ms of the chunk that follows) of one prompt, and (context, ms of a decode step)."""
    prompt = bench.prompt(longest)
    bench.add(prompt, 1)
    chunk = bench.engine.scheduler.reading.max_step_tokens
    chunks = [(float(at * chunk), step.seconds * 1000) for at, step in enumerate(bench.drain())]
    decodes = []
    length = SHORTEST
    while length <= longest:
        bench.add(prompt[:length], num_steps)  # its prefix is in the cache
        steps = [step for step in bench.drain() if step.tokens_for]
        decodes.append((float(length), min(step.seconds for step in steps[1:]) * 1000))
        length *= 2
    return chunks, decodes


def beside(bench: Bench, longest: int, num_streams: int) -> list[tuple[str, float, float, float, int]]:
    """Gaps between the tokens of running streams, ms: before and while a longest prompt is read."""
    streams = [bench.add(bench.prompt(SHORTEST), longest) for _ in range(num_streams)]
    before = [bench.step() for _ in range(60)][-40:]
    late = bench.add(bench.prompt(longest), 1)
    during = [bench.step()]
    while late not in during[-1].tokens_for:
        during.append(bench.step())
    for request_id in streams:
        bench.engine.cancel(request_id)
    rows = []
    for name, steps in (("before", before), ("while the prompt is read", during)):
        gaps = gaps_of(streams[0], steps)
        rows.append((name, percentile(gaps, 0.5), percentile(gaps, 0.99), max(gaps, default=0.0), len(steps)))
    return rows


def gaps_of(request_id: str, steps: Sequence[Step]) -> list[float]:
    times = [step.ended for step in steps if request_id in step.tokens_for]
    return [(after - before) * 1000 for before, after in zip(times, times[1:], strict=False)]


def with_growth(points: Line) -> list[tuple[int, float, object]]:
    """(size, ms, time against the row before)."""
    rows: list[tuple[int, float, object]] = []
    for at, (size, ms) in enumerate(points):
        rows.append((int(size), ms, round(ms / points[at - 1][1], 2) if at else ""))
    return rows


def doublings(points: Line) -> list[tuple[float, float]]:
    """Those nearest to a doubling of the size; the fastest of five neighbours."""
    picked, wanted = [], 512.0
    while wanted <= points[-1][0] * 1.05:
        at = min(range(len(points)), key=lambda index: abs(points[index][0] - wanted))
        picked.append((points[at][0], min(ms for _, ms in points[max(0, at - 2) : at + 3])))
        wanted *= 2
    return picked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER / "models")
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument(
        "--longest", type=int, default=32_768, help="tokens of prompt; the model's context less an answer"
    )
    parser.add_argument("--steps", type=int, default=24, help="decode steps per point")
    parser.add_argument("--streams", type=int, default=8, help="that go on while the longest prompt is read")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread, and its processor time: for a busy machine"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    args = parser.parse_args()
    models.ensure(args.models, [args.shape])
    print(f"{machine()}; load average {load_average()}", flush=True)
    clock = time.process_time if args.cpu_time else time.perf_counter
    bench = Bench(engine_of(args.models / args.shape, args.longest, 1 if args.cpu_time else args.threads), clock)
    bench.add(bench.prompt(SHORTEST), 8)
    bench.drain()
    batches = by_batch(bench, args.batches, args.steps)
    print("\n" + table(["batch", "step ms", "x"], with_growth(batches)), flush=True)
    chunks, decodes = by_context(bench, args.longest, args.steps)
    size = bench.engine.scheduler.reading.max_step_tokens
    print("\n" + table(["tokens before", f"chunk of {size}, ms", "x"], with_growth(doublings(chunks))), flush=True)
    print(f"\n{args.longest} tokens read in {sum(ms for _, ms in chunks) / 1000:.1f} s, {len(chunks)} steps")
    print("\n" + table(["context", "decode step ms", "x"], with_growth(decodes)), flush=True)
    gaps = beside(bench, args.longest, args.streams)
    print(f"\n{args.streams} streams\n\n" + table(["", "gap p50 ms", "p99 ms", "max ms", "steps"], gaps))
    print(f"\nload average {load_average()} at the end")
    panels = [
        Panel("decode, by batch", "sequences", "ms per step", {"short context": batches}),
        Panel("prefill, by context", "tokens before", f"ms per chunk of {size}", {"one prompt": chunks[1:]}),
        Panel("decode, by context", "tokens", "ms per step", {"batch 1": decodes}),
    ]
    draw(panels, args.out / "growth.png", machine())
    write_json(args.out / "growth.json", {"batch": batches, "chunks": chunks, "decodes": decodes, "beside": gaps})


if __name__ == "__main__":
    main()
