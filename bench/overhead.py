"""The time that the service adds to the engine: `python -m bench.overhead [--shape tiny llama-150m] [--count 200]`.

1. Idle, one request after the other: request in to first text out, minus the engine's own steps, and where each
   millisecond goes. The clocks are around functions of the running processes (bench.trace).
2. At 64 streams: the service's tokens/s as a share of the engine's alone, which runs in a process of its own
   (bench.engine), and what the processes do meanwhile. They take turns, so that they see the same machine.
"""

import argparse
import asyncio
import gc
import http.client
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import orjson
from tokenizers import Tokenizer

from bench import load, models
from bench.report import DEFAULT_FOLDER, load_average, machine, percentile, table, write_json
from bench.serve import Ours, end_on_sigterm, our_service

Span = tuple[str, float, float]
WARM_UP = 20
# one after the other, from the client's first byte to its last: (name, the span that ends it, which end of that span)
MILESTONES = (
    ("accept: socket to Flask", "request", 1),
    ("parse, prompt, prepare", "submit", 1),
    ("submit: script in Valkey, wake the worker", "claim", 1),
    ("claim: script in Valkey, job to request", "claim", 2),
    ("add to the engine", "step", 1),
    ("engine steps", "step", 2),
    ("append: script in Valkey, publish", "hub", 1),
    ("hub: rows to the waiting request", "hub", 2),
    ("chunk and frame", "frame", 2),
)
LAST = "write: socket to the client"
STEPS = "engine steps"


def first_text(connection: http.client.HTTPConnection, model: str, text: str) -> tuple[float, float]:
    """The times when a request was sent and when its first text was read. One token, so that one step suffices."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": 1}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-local"}
    raw = json.dumps(body | {"ignore_eos": True, "temperature": 0})
    started = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", raw, headers)
    response = connection.getresponse()
    while line := response.readline():
        if b'"content":"' in line and b'"content":""' not in line:
            ended = time.perf_counter()
            response.read()
            return started, ended
    raise RuntimeError(f"no text in the answer (status {response.status})")


def one_by_one(ours: Ours, count: int, num_words: int) -> list[tuple[float, float]]:
    rnd = random.Random(7)
    connection = http.client.HTTPConnection("127.0.0.1", ours.service.port)
    connection.connect()
    return [first_text(connection, ours.model, load.prompt(rnd, num_words)) for _ in range(count + WARM_UP)][WARM_UP:]


def read_spans(ours: Ours) -> list[Span]:
    time.sleep(1.2)  # the stopwatches write twice a second
    spans: list[Span] = []
    for name in ("api", "worker"):
        lines = (ours.service.folder / f"{name}.trace").read_bytes().splitlines()
        spans += [tuple(orjson.loads(line)) for line in lines]
    return sorted(spans, key=lambda span: span[1])


def parts_of(window: tuple[float, float], spans: Sequence[Span]) -> dict[str, float]:
    """Milliseconds between milestones of one request; {} when one is missing. They add up to the whole."""
    started, ended = window
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for name, begin, end in spans:
        if started <= begin and end <= ended:
            first.setdefault(name, begin)
            last[name] = end
    wanted = {name for _, name, _ in MILESTONES}
    if wanted - first.keys():
        return {}
    times = [started] + [first[name] if which == 1 else last[name] for _, name, which in MILESTONES] + [ended]
    names = [name for name, _, _ in MILESTONES] + [LAST]
    return {name: (after - before) * 1000 for name, (before, after) in zip(names, pairwise(times), strict=True)}


def idle(model: Path, count: int, num_words: int, threads: str) -> str:
    """Two tables: the whole, and where it goes."""
    with our_service(model, is_traced=True, OMNI_THREADS=threads) as ours:
        windows = one_by_one(ours, count, num_words)
        spans = read_spans(ours)
    found = [parts_of(window, [span for span in spans if window[0] <= span[1] <= window[1]]) for window in windows]
    parts = [one for one in found if one]
    through = [sum(one.values()) for one in parts]
    alone = [one[STEPS] for one in parts]
    rest = [whole - steps for whole, steps in zip(through, alone, strict=True)]
    rows = [("request in to first text out", through), ("the engine's steps", alone), ("overhead", rest)]
    rows += [(f"  {name}", [one[name] for one in parts]) for name in parts[0] if name != STEPS]
    lines = [
        (name, round(min(values), 3), round(statistics.median(values), 3), round(percentile(values, 0.99), 3))
        for name, values in rows
    ]
    print(f"{len(parts)} of {len(windows)} requests with all milestones")
    return table([f"{model.name}, idle, ms", "fastest", "p50", "p99"], lines)


def engine_alone(model: Path, streams: int, plan: load.Plan, seed: int, threads: str) -> float:
    """Tokens/s of bench.engine in a process of its own: the same closed loop, without the service around it."""
    options: dict[str, object] = {"--concurrency": streams, "--output": plan.tokens, "--rounds": plan.rounds}
    options["--prompt"] = num_prompt_tokens(model, plan.words, streams * plan.rounds, seed)
    if threads:
        options["--threads"] = threads
    words = [sys.executable, "-m", "bench.engine", str(model)]
    words += [str(part) for pair in options.items() for part in pair]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return float(output.strip().splitlines()[-1].split("|")[3])


def num_prompt_tokens(model: Path, num_words: int, num_prompts: int, seed: int) -> int:
    """The mean length of the load generator's prompts with this seed, chat template included."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    rnd = random.Random(seed)
    texts = [load.prompt(rnd, num_words) for _ in range(num_prompts)]
    encoded = tokenizer.encode_batch([f"<|start|>user\n{text}<|end|>\n<|start|>assistant\n" for text in texts])
    return round(statistics.mean(len(one.ids) for one in encoded))


def through_service(ours: Ours, streams: int, plan: load.Plan, seed: int) -> tuple[load.Level, dict[str, float]]:
    """One closed loop, and the seconds of processor time that each process took of it."""
    names = ("worker", "api", "redis")
    before = {name: ours.cpu_s(name) for name in names}
    mine = time.process_time()
    level = asyncio.run(load.run_level(load.Target("ours", ours.url, ours.model, "sk-local"), plan, streams, 0, seed))
    busy = {name: ours.cpu_s(name) - before[name] for name in names}
    return level, busy | {"client": time.process_time() - mine}


def share(model: Path, streams: int, plan: load.Plan, threads: str) -> str:
    """The service's tokens/s over the engine's, in turns."""
    rows = []
    for again in range(plan.repeat):
        alone = engine_alone(model, streams, plan, 100 + again, threads)
        with our_service(model, OMNI_THREADS=threads, OMNI_MAX_NUM_SEQS="64") as ours:
            warm = load.Plan(plan.words, 4, rounds=1)
            through_service(ours, streams, warm, 1)
            level, busy = through_service(ours, streams, plan, 100 + again)
        if level.errors:
            raise RuntimeError(level.first_error)
        per_token = {name: round(s * 1e6 / (level.requests * plan.tokens)) for name, s in busy.items()}
        rows.append((alone, level.tokens_s, round(level.tokens_s / alone, 3), *per_token.values(), load_average()))
    rows.sort(key=lambda row: row[2])
    names = ["engine alone, tokens/s", "service, tokens/s", "share"]
    names += [f"{name}, CPU us/token" for name in ("worker", "API", "Valkey", "client")]
    head = f"{model.name}, {streams} streams, {plan.rounds} requests of each, median turn by share first"
    return f"{head}\n\n" + table(
        [*names, "load average"], [rows[len(rows) // 2], *(row for row in rows if row is not rows[len(rows) // 2])]
    )


def under_load(model: Path, streams: int, plan: load.Plan, threads: str) -> str:
    """The work of worker and API under load: milliseconds per engine step, by span."""
    with our_service(model, is_traced=True, OMNI_THREADS=threads) as ours:
        level, _ = through_service(ours, streams, plan, 5)
        spans = read_spans(ours)
    sums: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for name, begin, end in spans:
        sums[name] += (end - begin) * 1000
        calls[name] += 1
    steps = max(calls["step"], 1)
    order = (
        "step", "forward", "sample", "detokenize", "claim", "add", "append", "confirm", "telemetry",
        "hub", "chunks", "frame", "parse", "prompt", "submit",
    )  # fmt: skip
    rows = [(name, calls[name], sums[name] / steps, sums[name] * 1000 / max(calls[name], 1)) for name in order]
    in_steps = [(begin, end) for name, begin, end in spans if name == "step"]
    part = sums["step"] / ((in_steps[-1][1] - in_steps[0][0]) * 1000)
    head = f"{model.name}, {streams} streams, {level.tokens_s:.0f} tokens/s with stopwatches, {steps} steps; "
    head += f"the worker is {part:.1%} of the time in engine steps"
    return f"{head}\n\n" + table(["span", "calls", "ms per step", "us per call"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER / "models")
    parser.add_argument("--shape", nargs="+", default=["tiny", "llama-150m"])
    parser.add_argument("--count", type=int, default=200, help="requests of the idle run")
    parser.add_argument("--words", type=int, default=95)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="requests of each stream; the first are all at once")
    parser.add_argument("--threads", default="", help="of the engine; its own choice if not given")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=["idle", "share", "load"], help="one part")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER / "overhead.json")
    args = parser.parse_args()
    end_on_sigterm()
    models.ensure(args.models, args.shape)
    plan = load.Plan(args.words, args.tokens, args.rounds, repeat=args.repeat)
    gc.freeze()  # the load generator's collections need not go through torch's objects
    print(machine(), flush=True)
    said = []
    for name in args.shape:
        parts: dict[str, Callable[[Path], object]] = {
            "idle": lambda folder: idle(folder, args.count, args.words, args.threads),
            "share": lambda folder: share(folder, args.streams, plan, args.threads),
            "load": lambda folder: under_load(folder, args.streams, plan, args.threads),
        }
        for part, measure in parts.items():
            if args.only in (None, part):
                said.append(f"{measure(args.models / name)}\n\nload average {load_average()} at the end\n")
                print(said[-1], flush=True)
    write_json(args.out, said)


if __name__ == "__main__":
    main()
