"""What others notice of flex work, and how much of it gets done: a steady trickle of chats beside an endless backlog.

    python -m bench.flex                        # the model that `make run` serves; four minutes
    python -m bench.flex demo/model --rate 4

Phases take turns: chats alone, beside a backlog of tier flex, and beside the same backlog of tier default (the control,
of another key). Then the backlog alone, in each tier, by a service of its own.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from bench.load import Shot, Target, percentile, prompt, shoot
from bench.serve import our_service
from bench.streamed import posting
from common.json_bytes import json_bytes
from common.redis.connection import connect
from common.redis.key_store import KeyLimits, KeyStore
from common.redis.metrics import read
from common.settings import default_model

MODEL = "bench"
CHAT_TOKENS = 24
BACKLOG_TOKENS = 128
SETTLE_S = 2.0  # between phases, and of a phase before its first chat
PHASES = {"alone": "", "beside flex": "flex", "beside default": "default"}


@dataclass
class Seen:
    """One kind of phase, all rounds together."""

    shots: list[Shot] = field(default_factory=list)
    seconds: float = 0.0
    backlog_tokens: int = 0


async def caller(target: Target, tier: str, rnd: random.Random) -> None:
    """Asks again as soon as it is answered, for ever."""
    headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
    while True:
        body: dict[str, Any] = {
            "model": target.model,
            "messages": [{"role": "user", "content": prompt(rnd, 40)}],
            "max_tokens": BACKLOG_TOKENS,
            "ignore_eos": True,
            "service_tier": tier,
        }
        async with posting(f"{target.url}/chat/completions", headers, json_bytes(body)) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {text}")


@asynccontextmanager
async def backlog(target: Target, tier: str, num_open: int) -> AsyncIterator[None]:
    """So many requests always wait or run; none if no tier is given."""
    callers = [
        asyncio.create_task(caller(target, tier, random.Random(number))) for number in range(num_open if tier else 0)
    ]
    try:
        await asyncio.sleep(SETTLE_S)
        yield
    finally:
        for task in callers:
            task.cancel()
        for task in callers:
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.sleep(SETTLE_S)  # their jobs are cancelled


async def trickle(target: Target, rate: float, seconds: float, seed: int) -> list[Shot]:
    """Chats at random times, the same for each seed."""
    rnd = random.Random(seed)
    chats = []
    loop = asyncio.get_running_loop()
    begin, at = loop.time(), rnd.expovariate(rate)
    while at < seconds:
        await asyncio.sleep(begin + at - loop.time())
        chats.append(asyncio.create_task(shoot(target, prompt(rnd, 20), CHAT_TOKENS)))
        at += rnd.expovariate(rate)
    await asyncio.sleep(begin + seconds - loop.time())
    return list(await asyncio.gather(*chats))


async def measure(redis: "Redis", chats: Target, batch: Target, args: argparse.Namespace) -> dict[str, Seen]:
    seen = {name: Seen() for name in PHASES}
    loop = asyncio.get_running_loop()
    await trickle(chats, args.rate, 5, 0)  # warm
    for number in range(args.rounds):
        for name, tier in PHASES.items():
            async with backlog(batch, tier, args.backlog):
                before, begun = generated(redis), loop.time()
                shots = await trickle(chats, args.rate, args.seconds, number)
                seen[name].seconds += loop.time() - begun
                seen[name].backlog_tokens += generated(redis) - before - sum(shot.num_tokens for shot in shots)
                seen[name].shots += shots
    return seen


async def throughput(redis: "Redis", batch: Target, tier: str, args: argparse.Namespace) -> float:
    """Tokens/s of the backlog alone."""
    async with backlog(batch, tier, args.backlog):
        before = generated(redis)
        await asyncio.sleep(args.seconds)
        return (generated(redis) - before) / float(args.seconds)


def generated(redis: "Redis") -> int:
    return int(read(redis, MODEL).get("generation_tokens", 0))


def row_of(name: str, seen: Seen) -> str:
    waits = [shot.ttft_s for shot in seen.shots if not shot.error]
    gaps = [gap for shot in seen.shots for gap in shot.gaps_s]
    figures = [percentile(waits, 0.5), percentile(waits, 0.95), percentile(gaps, 0.5), percentile(gaps, 0.95)]
    rate = seen.backlog_tokens / seen.seconds
    return f"| {name} | {len(waits)} | {' | '.join(f'{figure:.1f}' for figure in figures)} | {rate:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=default_model())
    parser.add_argument("--rate", type=float, default=1.0, help="chats a second")
    parser.add_argument("--backlog", type=int, default=48, help="requests of it that are always open")
    parser.add_argument("--seconds", type=float, default=15, help="of each phase")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    model = Path(args.model).absolute()
    with our_service(model, OMNI_MODEL_NAME=MODEL) as ours:
        redis = connect(ours.service.redis_url)
        keys = KeyStore(redis)
        chats, batch = (Target(name, ours.url, MODEL, keys.add(name, KeyLimits())) for name in ("chats", "batch"))
        seen = asyncio.run(measure(redis, chats, batch, args))
    print("| chats | answers | first text p50 ms | p95 | gap p50 ms | p95 | tokens/s of the backlog |")
    print("|---|---|---|---|---|---|---|")
    for name, phase in seen.items():
        print(row_of(name, phase), flush=True)
    for tier in ("flex", "default") if args.rounds else ():
        with our_service(model, OMNI_MODEL_NAME=MODEL) as ours:
            redis = connect(ours.service.redis_url)
            alone = Target("batch", ours.url, MODEL, KeyStore(redis).add("batch", KeyLimits()))
            print(f"\nthe backlog alone, {tier}: {asyncio.run(throughput(redis, alone, tier, args)):.0f} tokens/s")
    return int(any(shot.error for phase in seen.values() for shot in phase.shots))


if __name__ == "__main__":
    sys.exit(main())
