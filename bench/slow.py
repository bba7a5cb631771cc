"""The latency of other callers while 500 send slowly, and while 500 read slowly.

    python -m bench.slow                        # starts the service itself, with the demo model; 2 minutes

A slow sender sends its headers and then a byte of its body a second, until the server hangs up, and begins again. A
slow reader asks for an answer of 2,000 tokens that is there already, with a receive buffer of 4 KiB, and reads a byte a
second; after 20 to 50 s it leaves and begins again. Meanwhile one good caller after the other asks for four tokens.
They all run on the same machine as the service.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import random
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from bench.load import percentile
from bench.serve import our_service
from common.settings import DEMO_MODEL

READ_S = (20, 50)
RAMP_S = 10
LONG = {"max_tokens": 2000, "ignore_eos": True, "background": True}
Attack = Callable[[str, int, str, str], Awaitable[None]]


def head(key: str, *lines: str) -> bytes:
    common = ("Host: localhost", f"Authorization: Bearer {key}", "Content-Type: application/json")
    return "\r\n".join((*lines[:1], *common, *lines[1:], "", "")).encode()


async def connected(host: str, port: int, receive_bytes: int = 0) -> socket.socket:
    raw = socket.socket()
    raw.setblocking(False)
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(raw, (host, port))
    return raw


async def send_slowly(host: str, port: int, key: str, _: str) -> None:
    loop = asyncio.get_running_loop()
    with await connected(host, port) as raw:
        await loop.sock_sendall(raw, head(key, "POST /v1/chat/completions HTTP/1.1", "Content-Length: 1000") + b"{")
        while True:
            await asyncio.sleep(1)
            await loop.sock_sendall(raw, b" ")


async def read_slowly(host: str, port: int, key: str, job_id: str) -> None:
    loop = asyncio.get_running_loop()
    with await connected(host, port, receive_bytes=4096) as raw:
        await loop.sock_sendall(raw, head(key, f"GET /v1/chat/completions/{job_id}?stream=true HTTP/1.1"))
        for _ in range(random.randint(*READ_S)):
            if not await loop.sock_recv(raw, 1):
                return
            await asyncio.sleep(1)


def attack(act: Attack, num_callers: int, place: tuple[str, int], key: str, job_id: str, num_open: Any) -> None:
    """Runs in a process of its own, so that the good callers' clock is not disturbed."""

    async def forever(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            num_open.value += 1
            with suppress(OSError):
                await act(*place, key, job_id)
            num_open.value -= 1
            await asyncio.sleep(0.1)

    async def everybody() -> None:
        await asyncio.gather(*(forever(RAMP_S * number / num_callers) for number in range(num_callers)))

    asyncio.run(everybody())


@contextmanager
def attacked(act: Attack, num_callers: int, place: tuple[str, int], key: str, job_id: str) -> Iterator[None]:
    num_open = multiprocessing.Value("i", 0)
    attacker = multiprocessing.Process(
        target=attack, args=(act, num_callers, place, key, job_id, num_open), daemon=True
    )
    attacker.start()
    try:
        time.sleep(RAMP_S + 2)
        print(f"{act.__name__}: {num_open.value} open")
        yield
    finally:
        attacker.terminate()
        attacker.join()


def good_calls(place: tuple[str, int], key: str, num_calls: int) -> list[float]:
    """How long each took, in seconds. Raises RuntimeError for an answer that is not 200."""
    body = {"model": "omni-demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    times = []
    for number in range(num_calls):
        began = time.perf_counter()
        connection = http.client.HTTPConnection(*place, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body | {"seed": number}), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"a good caller got {answer.status}: {answer.read(300)!r}")
        answer.read()
        connection.close()
        times.append(time.perf_counter() - began)
    return times


def long_job(place: tuple[str, int], key: str) -> str:
    """The id of an answer that is longer than the kernel's send buffers."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = {"model": "omni-demo", "messages": [{"role": "user", "content": "A long story, please."}], **LONG}
    connection = http.client.HTTPConnection(*place, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    job_id = str(json.load(connection.getresponse())["id"])
    while True:
        connection.request("GET", f"/v1/jobs/{job_id}", headers=headers)
        job = json.load(connection.getresponse())
        if job["state"] == "finished":
            return job_id
        time.sleep(0.2)


def compare(place: tuple[str, int], key: str, num_slow: int, num_calls: int) -> bool:
    """Prints a table; True if p99 stayed below twice that without slow callers."""
    job_id = long_job(place, key)
    good_calls(place, key, 20)
    rows = {"nobody": good_calls(place, key, num_calls)}
    for name, act in (("senders", send_slowly), ("readers", read_slowly)):
        with attacked(act, num_slow, place, key, job_id):
            rows[f"{num_slow} slow {name}"] = good_calls(place, key, num_calls)
    rows["nobody again"] = good_calls(place, key, num_calls)
    print("| beside | calls | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|")
    for name, times in rows.items():
        p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
        print(f"| {name} | {len(times)} | {p50:.1f} | {p99:.1f} | {max(times) * 1000:.1f} |")
    calm = max(percentile(rows[name], 0.99) for name in ("nobody", "nobody again"))
    worst = max(percentile(times, 0.99) for times in rows.values())
    print(f"p99 x {worst / calm:.2f}")
    return worst < 2 * calm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--url", help="a running service, instead of one of its own")
    parser.add_argument("--key", default="sk-local")
    args = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    if args.url:
        parts = urlsplit(args.url)
        return int(not compare((parts.hostname or "", parts.port or 80), args.key, args.slow, args.calls))
    with our_service(DEMO_MODEL, OMNI_MODEL_NAME="omni-demo") as ours:
        return int(not compare(("127.0.0.1", ours.service.port), args.key, args.slow, args.calls))


if __name__ == "__main__":
    sys.exit(main())
