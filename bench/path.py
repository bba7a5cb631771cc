"""Processor time of a token outside the model: `python -m bench.path [--streams 64] [--step 0.02]`.

Open streams at a weightless engine; processor time (user and system) of worker, Valkey and API a token, while all run.
"""

import argparse
import asyncio
import time

import psutil

from bench.report import load_average, machine, table
from bench.serve import end_on_sigterm
from tests.chaos.client import Api, chat
from tests.chaos.harness import Harness, Options, running

ENDLESS = 100_000
WARM_UP_S = 3.0
COLUMNS = ("streams", "tokens/s", "worker us/token", "Valkey us/token", "API us/token", "load average")


async def keep_reading(api: Api, seed: int) -> None:
    response = await api.open("POST", "/v1/chat/completions", chat(seed, ENDLESS, stream=True))
    while await response.reader.read(65536):
        pass


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def num_tokens(harness: Harness) -> int:
    return sum(int(harness.redis.hget(key, "tokens") or 0) for key in harness.redis.scan_iter("omni:job:*"))


async def measure(harness: Harness, streams: int, seconds: float) -> tuple[object, ...]:
    api = Api(harness.port)
    reading = [asyncio.create_task(keep_reading(api, seed)) for seed in range(streams)]
    await asyncio.sleep(WARM_UP_S)
    assert harness.valkey is not None
    processes = [harness.workers[0].worker(), psutil.Process(harness.valkey.popen.pid), harness.api_processes(2)[0]]
    before, tokens, began = [cpu_s(one) for one in processes], num_tokens(harness), time.perf_counter()
    await asyncio.sleep(seconds)
    spent = [cpu_s(one) - was for one, was in zip(processes, before, strict=True)]
    tokens, elapsed = num_tokens(harness) - tokens, time.perf_counter() - began
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return streams, tokens / elapsed, *(s * 1e6 / tokens for s in spent), load_average()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[64])
    parser.add_argument("--step", type=float, default=0.02, help="seconds a step of the weightless engine takes")
    parser.add_argument("--seconds", type=float, default=8.0)
    args = parser.parse_args()
    end_on_sigterm()
    print(machine(), flush=True)
    rows = []
    for streams in args.streams:
        with running(
            Options(max_num_seqs=streams, step_s=args.step, api_module="api.server", through_proxy=False)
        ) as it:
            rows.append(asyncio.run(measure(it, streams, args.seconds)))
    print(table(COLUMNS, rows))


if __name__ == "__main__":
    main()
