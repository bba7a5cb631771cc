"""The waiting time of a key while another has a hundred times its load.

    python -m bench.fairness                    # starts the service itself, with the demo model; half a minute
    python -m bench.fairness --long 400         # the heavy key has 400 long jobs in the background instead

The heavy key always has 100 requests open, the light one has one. A batch of eight, so that there is a line. Without
fair shares every light request would wait for all of the heavy key's before it. With --long its answers of 1,900 tokens
hold every place (256 of them, or --seqs): the light key is served because some make room, and what is read again
for them is counted.
"""

import argparse
import asyncio
import random
import sys
from typing import Any

from bench.load import Shot, Target, percentile, prompt, shoot
from bench.serve import our_service
from bench.streamed import posting
from common.json_bytes import json_bytes
from common.redis.connection import connect
from common.redis.key_store import KeyLimits, KeyStore
from common.redis.metrics import read
from common.settings import DEMO_MODEL

TOKENS = 32
LONG_TOKENS = 1900
WARM_UP_S = 3
MODEL = "omni-demo"
COSTS = ("jobs_that_made_room", "recomputed_tokens", "prompt_tokens", "generation_tokens")


async def caller(target: Target, until: float, shots: list[Shot]) -> None:
    rnd = random.Random(id(shots) + len(shots))
    while asyncio.get_running_loop().time() < until:
        shots.append(await shoot(target, prompt(rnd, 20), TOKENS))


async def run(heavy: Target, light: Target, num_heavy: int, seconds: float) -> tuple[list[Shot], list[Shot]]:
    loads: tuple[list[Shot], list[Shot]] = ([], [])
    until = asyncio.get_running_loop().time() + WARM_UP_S + seconds
    many = [asyncio.create_task(caller(heavy, until, loads[0])) for _ in range(num_heavy)]
    await asyncio.sleep(WARM_UP_S)
    await caller(light, until, loads[1])
    await asyncio.gather(*many)
    return loads


async def send_long(heavy: Target, num_long: int) -> None:
    """Fill the queue with long background answers."""
    rnd = random.Random(1)
    headers = {"Authorization": f"Bearer {heavy.key}", "Content-Type": "application/json"}
    for _ in range(num_long):
        body: dict[str, Any] = {
            "model": heavy.model,
            "messages": [{"role": "user", "content": prompt(rnd, 20)}],
            "max_tokens": LONG_TOKENS,
            "ignore_eos": True,
            "background": True,
        }
        async with posting(f"{heavy.url}/chat/completions", headers, json_bytes(body)) as answer:
            if answer.status != 202:
                raise RuntimeError(f"{answer.status} {await answer.text()}")


async def run_beside_long(heavy: Target, light: Target, num_long: int, seconds: float) -> list[Shot]:
    shots: list[Shot] = []
    await send_long(heavy, num_long)
    await asyncio.sleep(WARM_UP_S)
    await caller(light, asyncio.get_running_loop().time() + seconds, shots)
    return shots


def row_of(name: str, num_open: int, shots: list[Shot]) -> str:
    waits = [shot.ttft_s for shot in shots if not shot.error]
    p50, p99, most = (percentile(waits, share) for share in (0.5, 0.99, 1.0))
    return f"| {name} | {num_open} | {len(waits)} | {len(shots) - len(waits)} | {p50:.0f} | {p99:.0f} | {most:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heavy", type=int, default=100, help="requests that the heavy key has open")
    parser.add_argument("--long", type=int, default=0, help="instead: long jobs that it has in the background")
    parser.add_argument("--seqs", type=int, default=None, help="places of the worker")
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    settings: dict[str, Any] = {"OMNI_MODEL_NAME": MODEL}
    if args.seqs or not args.long:
        settings["OMNI_MAX_NUM_SEQS"] = str(args.seqs or 8)
    with our_service(DEMO_MODEL, **settings) as ours:
        redis = connect(ours.service.redis_url)
        keys = KeyStore(redis)
        heavy, light = (Target(name, ours.url, MODEL, keys.add(name, KeyLimits())) for name in ("heavy", "light"))
        loads: tuple[list[Any], list[Any]]
        if args.long:
            loads = ([], asyncio.run(run_beside_long(heavy, light, args.long, args.seconds)))
        else:
            loads = asyncio.run(run(heavy, light, args.heavy, args.seconds))
        counts = read(redis, MODEL)
    print("| key | open | answers | errors | first text p50 ms | p99 | max |\n|---|---|---|---|---|---|---|")
    if not args.long:
        print(row_of("heavy", args.heavy, loads[0]))
    print(row_of("light", 1, loads[1]))
    print("\n" + ", ".join(f"{name} {counts.get(name, 0)}" for name in COSTS))
    return int(any(shot.error for shots in loads for shot in shots))


if __name__ == "__main__":
    sys.exit(main())
