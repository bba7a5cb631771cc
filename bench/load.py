"""Load on any OpenAI-compatible server: throughput, time to first token, gaps between tokens, errors.

    python -m bench.load --target ours=http://127.0.0.1:8000/v1 --target vllm=http://127.0.0.1:8101/v1 -c 1,4,16,64
    python -m bench.load --target ours=http://127.0.0.1:8000/v1 --rate 2,4,8          # open loop, Poisson arrivals

Targets take turns at each level, so that a noisy machine is noisy for all. Every prompt is new, so that no prefix cache
helps. TTFT: request written to first text. Gap: between two reads that bring text, divided by the tokens in the later.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from bench.streamed import posting

WORDS = (
    "river stone window garden letter morning winter bridge candle harbour mirror forest engine silver market thunder "
    "orange pocket button travel number summer island basket doctor corner ribbon dragon castle yellow planet ladder"
).split()
TIMEOUT_S = 900


@dataclass
class Target:
    """One server: its name in the table, its base URL, and how it wants to be called."""

    name: str
    url: str
    model: str
    key: str


@dataclass(frozen=True)
class Plan:
    """The requests to every target, and their number."""

    words: int = 95  # per prompt
    tokens: int = 64  # per answer
    rounds: int = 2  # requests per caller
    requests: int = 0  # per level, instead of rounds
    repeat: int = 1


@dataclass
class Shot:
    """One request as its caller saw it. Times in seconds."""

    ttft_s: float = 0.0
    total_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    error: str = ""


@dataclass
class Level:
    """One row of the table."""

    target: str
    load: str
    requests: int
    errors: int
    tokens_s: float
    requests_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    first_error: str = ""


def prompt(rnd: random.Random, num_words: int) -> str:
    return " ".join(rnd.choice(WORDS) for _ in range(num_words))


async def shoot(target: Target, text: str, max_tokens: int) -> Shot:
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    shot = Shot()
    started = last = time.perf_counter()
    try:
        headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
        url = f"{target.url}/chat/completions"
        async with asyncio.timeout(TIMEOUT_S), posting(url, headers, orjson.dumps(body)) as answer:
            if answer.status != 200:
                shot.error = f"{answer.status} {(await answer.text())[:120]}"
                return shot
            rest = b""
            async for data in answer.pieces():
                now = time.perf_counter()
                *frames, rest = (rest + data).split(b"\n\n")
                num_texts = read_frames(frames, shot)
                if num_texts and not shot.ttft_s:
                    shot.ttft_s = now - started
                elif num_texts:
                    shot.gaps_s += [(now - last) / num_texts] * num_texts
                last = now if num_texts else last
    except (OSError, EOFError, ValueError) as error:
        shot.error = f"{type(error).__name__} {error}"[:120]
    shot.total_s = time.perf_counter() - started
    if not shot.error and not shot.ttft_s:
        shot.error = "no text"
    return shot


def read_frames(frames: list[bytes], shot: Shot) -> int:
    """How many of these frames carry text; usage and errors are noted in the shot."""
    num_texts = 0
    for frame in frames:
        line = next((part for part in frame.split(b"\n") if part.startswith(b"data: {")), None)
        if line is None:
            continue
        chunk = orjson.loads(line[6:])
        if error := chunk.get("error"):
            shot.error = str(error)[:120]
        if usage := chunk.get("usage"):
            shot.num_tokens = usage["completion_tokens"]
        delta: dict[str, Any] = chunk["choices"][0].get("delta", {}) if chunk.get("choices") else {}
        num_texts += bool(delta.get("content") or delta.get("reasoning_content"))
    return num_texts


async def closed_loop(fire: Callable[[], Any], concurrency: int, num_requests: int) -> list[Shot]:
    """`concurrency` callers that each send again as soon as they are answered."""
    left = num_requests
    shots: list[Shot] = []

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            shots.append(await fire())

    await asyncio.gather(*(caller() for _ in range(min(concurrency, num_requests))))
    return shots


async def open_loop(fire: Callable[[], Any], rate: float, num_requests: int, rnd: random.Random) -> list[Shot]:
    """Arrivals that do not wait for answers."""
    tasks = []
    for _ in range(num_requests):
        tasks.append(asyncio.create_task(fire()))
        await asyncio.sleep(rnd.expovariate(rate))
    return list(await asyncio.gather(*tasks))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1000 if values else 0.0


def summed_up(target: Target, load: str, shots: list[Shot], elapsed_s: float) -> Level:
    good = [shot for shot in shots if not shot.error]
    gaps = [gap for shot in good for gap in shot.gaps_s]
    ttfts = [shot.ttft_s for shot in good]
    return Level(
        target.name, load, len(shots), len(shots) - len(good),
        round(sum(shot.num_tokens for shot in good) / elapsed_s, 1), round(len(good) / elapsed_s, 2),
        round(percentile(ttfts, 0.5), 1), round(percentile(ttfts, 0.99), 1),
        round(percentile(gaps, 0.5), 2), round(percentile(gaps, 0.99), 1),
        next((shot.error for shot in shots if shot.error), ""),
    )  # fmt: skip


def num_requests(plan: Plan, concurrency: int) -> int:
    """Of one level."""
    return plan.requests or max(4, concurrency * plan.rounds)


async def run_level(
    target: Target, plan: Plan, concurrency: int, rate: float, seed: int, on_shot: Callable[[Shot], None] | None = None
) -> Level:
    """One level of one target: a closed loop of `concurrency` callers, or arrivals at `rate` a second. `on_shot` is
    told each request when it has ended."""
    rnd = random.Random(seed)

    async def fire() -> Shot:
        shot = await shoot(target, prompt(rnd, plan.words), plan.tokens)
        if on_shot is not None:
            on_shot(shot)
        return shot

    started = time.perf_counter()
    if rate:
        shots = await open_loop(fire, rate, num_requests(plan, concurrency), rnd)
    else:
        shots = await closed_loop(fire, concurrency, num_requests(plan, concurrency))
    return summed_up(target, f"{rate}/s" if rate else f"C={concurrency}", shots, time.perf_counter() - started)


def median_of(levels: list[Level]) -> Level:
    """The run with the median throughput: one real run, not a mixture of several."""
    return sorted(levels, key=lambda level: level.tokens_s)[len(levels) // 2]


async def measure(targets: list[Target], plan: Plan, levels: list[tuple[int, float]]) -> list[Level]:
    """Levels are (concurrency, 0) or (0, rate)."""
    rows = []
    for number, (concurrency, rate) in enumerate(levels):
        runs: dict[str, list[Level]] = {target.name: [] for target in targets}
        for again in range(plan.repeat):
            for target in targets:
                runs[target.name].append(await run_level(target, plan, concurrency, rate, 1000 * number + again))
        rows += [median_of(found) for found in runs.values()]
        print_rows(rows[-len(targets) :], is_first=number == 0)
    return rows


def print_rows(rows: list[Level], *, is_first: bool) -> None:
    names = ["target", "load", "requests", "errors", "tokens_s", "requests_s", "ttft_p50_ms", "ttft_p99_ms"]
    names += ["gap_p50_ms", "gap_p99_ms"]
    if is_first:
        print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    for row in rows:
        values = asdict(row)
        print("| " + " | ".join(str(values[name]) for name in names) + " |", flush=True)
        if row.first_error:
            print(f"  first error of {row.target}: {row.first_error}", flush=True)


def parse_target(text: str, model: str, key: str) -> Target:
    """name=url, or name=url#model for a server that wants another model id."""
    name, _, url = text.partition("=")
    url, _, own_model = url.partition("#")
    return Target(name, url.rstrip("/"), own_model or model, key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--target", action="append", required=True, help="name=base url[#model]")
    parser.add_argument("--model", default="omni-demo")
    parser.add_argument("--key", default="sk-local")
    parser.add_argument("-c", "--concurrency", type=numbers, default=[1, 4, 16, 64])
    parser.add_argument("--rate", type=lambda text: [float(part) for part in text.split(",")], default=[])
    parser.add_argument("--requests", type=int, default=0, help="per level; default: rounds x concurrency")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1, help="runs per level and target; the median is shown")
    parser.add_argument("--words", type=int, default=95, help="words per prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", help="also write the rows here")
    args = parser.parse_args()
    targets = [parse_target(text, args.model, args.key) for text in args.target]
    plan = Plan(args.words, args.tokens, args.rounds, args.requests, args.repeat)
    levels = [(0, rate) for rate in args.rate] or [(concurrency, 0.0) for concurrency in args.concurrency]
    rows = asyncio.run(measure(targets, plan, levels))
    if args.json:
        with open(args.json, "w") as file:
            json.dump([asdict(row) for row in rows], file, indent=1)
    if len(targets) > 1:
        best = statistics.mean(row.tokens_s for row in rows if row.target == targets[0].name)
        print(f"mean tokens/s of {targets[0].name}: {best:.1f}")


if __name__ == "__main__":
    main()
