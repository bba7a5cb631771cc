"""Two keys, one with a hundred times the other's load: how long does the light one wait?

    python -m bench.fairness                    # starts the service itself, with the demo model; half a minute

The heavy key always has 100 requests open, the light one has one. A batch of eight, so that there is a line. Without
fair shares every light request would wait for all of the heavy key's before it.
"""

import argparse
import asyncio
import random
import sys

import aiohttp

from bench.load import Shot, Target, percentile, prompt, shoot
from bench.serve import our_service
from common.connection import connect
from common.key_store import KeyLimits, KeyStore
from common.settings import DEMO_MODEL

TOKENS = 32
WARM_UP_S = 3


async def caller(session: aiohttp.ClientSession, target: Target, until: float, shots: list[Shot]) -> None:
    rnd = random.Random(id(shots) + len(shots))
    while asyncio.get_running_loop().time() < until:
        shots.append(await shoot(session, target, prompt(rnd, 20), TOKENS))


async def run(heavy: Target, light: Target, num_heavy: int, seconds: float) -> tuple[list[Shot], list[Shot]]:
    loads: tuple[list[Shot], list[Shot]] = ([], [])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        until = asyncio.get_running_loop().time() + WARM_UP_S + seconds
        many = [asyncio.create_task(caller(session, heavy, until, loads[0])) for _ in range(num_heavy)]
        await asyncio.sleep(WARM_UP_S)
        await caller(session, light, until, loads[1])
        await asyncio.gather(*many)
    return loads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heavy", type=int, default=100, help="requests that the heavy key has open")
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    with our_service(DEMO_MODEL, OMNI_MODEL_NAME="omni-demo", OMNI_MAX_NUM_SEQS="8") as ours:
        keys = KeyStore(connect(ours.service.redis_url))
        heavy, light = (Target(name, ours.url, "omni-demo", keys.add(name, KeyLimits())) for name in ("heavy", "light"))
        loads = asyncio.run(run(heavy, light, args.heavy, args.seconds))
    print("| key | open | answers | errors | first text p50 ms | p99 | max |\n|---|---|---|---|---|---|---|")
    for name, num_open, shots in (("heavy", args.heavy, loads[0]), ("light", 1, loads[1])):
        waits = [shot.ttft_s for shot in shots if not shot.error]
        p50, p99, most = (percentile(waits, share) for share in (0.5, 0.99, 1.0))
        print(
            f"| {name} | {num_open} | {len(waits)} | {len(shots) - len(waits)} | {p50:.0f} | {p99:.0f} | {most:.0f} |"
        )
    return int(any(shot.error for shots in loads for shot in shots))


if __name__ == "__main__":
    sys.exit(main())
