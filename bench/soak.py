"""One key tries to fill the memory while another is served: `python -m bench.soak --seconds 600`.

The whole service with the demo model. The greedy key attacks in every way in which a request is kept or held; the other
asks for three tokens, again and again. Said at the end: what memory each process takes over time, what Redis uses, the
answers by status, and whether the other key was served all the while. Exits with 1 when it was not.
"""

import argparse
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import psutil

from bench.report import load_average, machine, percentile, table
from tests.service import RunningService

GREEDY, OTHER = "sk-greedy", "sk-other"
HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = {"model": "omni-demo", "messages": HELLO, "max_tokens": 1}
RESPONSE = {"model": "omni-demo", "input": "Hello!", "max_output_tokens": 1, "background": True}
MIB = 2**20
OTHER_WAIT_S = 60.0
MAX_GROWTH = 400 * MIB  # of an API process: the largest bodies that are read at the same moment
HELD_BACK = 40  # bodies at once
HOLD_EVERY_S = 6.0
PAUSE_S = 0.2  # of the other key

Attack = tuple[str, dict[str, Any], dict[str, str]]


def unknown_fields(rnd: random.Random) -> Attack:
    ballast = "x" * rnd.randrange(MIB, 7 * MIB)
    return "/v1/responses", RESPONSE | {"input": [{"role": "user", "content": "Hi", "ballast": ballast}]}, {}


def known_fields(rnd: random.Random) -> Attack:
    """Tools that are offered but may not be called stand in the response, not in the prompt."""
    tool = {"type": "function", "name": "a", "description": "x" * rnd.randrange(2 * MIB)}
    return "/v1/responses", RESPONSE | {"tools": [tool], "tool_choice": "none"}, {}


def notes(rnd: random.Random) -> Attack:
    metadata = {f"{number:064}": "x" * 512 for number in range(16)}
    return "/v1/responses", RESPONSE | {"metadata": metadata, "user": "x" * 512}, {}


def too_long_notes(rnd: random.Random) -> Attack:
    return "/v1/chat/completions", CHAT | {"metadata": {"a": "x" * MIB}}, {}


def idempotency_keys(rnd: random.Random) -> Attack:
    return "/v1/chat/completions", CHAT | {"background": True}, {"Idempotency-Key": f"{rnd.random()}"}


def large_bodies_that_wait(rnd: random.Random) -> Attack:
    return "/v1/chat/completions", CHAT | {"ballast": ["x" * 100] * rnd.randrange(20_000)}, {}


def schemas(rnd: random.Random) -> Attack:
    shape = {"type": "object", "properties": {f"p{rnd.random()}": {"type": "string"} for _ in range(200)}}
    return "/v1/chat/completions", CHAT | {"guided_json": shape, "background": True}, {}


def long_logs(rnd: random.Random) -> Attack:
    wide = {"logprobs": True, "top_logprobs": 20, "n": 4, "max_tokens": 64, "ignore_eos": True, "background": True}
    return "/v1/chat/completions", CHAT | wide, {}


def wrong_keys(rnd: random.Random) -> Attack:
    return "/v1/chat/completions", CHAT, {"Authorization": f"Bearer {rnd.random()}"}


ATTACKS: tuple[Callable[[random.Random], Attack], ...] = (
    unknown_fields, known_fields, notes, too_long_notes, idempotency_keys, large_bodies_that_wait, schemas, long_logs,
    wrong_keys,
)  # fmt: skip


@dataclass
class Seen:
    """The answers to both keys, and the memory used."""

    greedy: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    other_s: list[float] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)

    def verdict(self, max_memory: int) -> list[str]:
        """The failed checks; empty if all passed."""
        faults = []
        if set(self.other) != {"200"}:
            faults.append(f"the other key was answered {dict(self.other)}")
        if (most := max(sample["redis used"] for sample in self.samples)) > max_memory:
            faults.append(f"Redis used {most / MIB:.0f} MiB")
        for name in self.samples[0]:
            grown = max(sample.get(name, 0.0) for sample in self.samples) - self.samples[0][name]
            if name.startswith("api") and grown > MAX_GROWTH:
                faults.append(f"{name} grew by {grown / MIB:.0f} MiB")
        return faults


def post(url: str, path: str, body: dict[str, Any], headers: dict[str, str], timeout_s: float) -> str:
    """The status with the limit that was reached, or the name of an error without a status."""
    try:
        answer = httpx2.post(url + path, json=body, headers=headers, timeout=timeout_s)
    except httpx2.HTTPError as error:
        return type(error).__name__
    limit = answer.json()["error"]["param"] if answer.status_code == 429 else None
    return f"{answer.status_code} {limit}" if limit else str(answer.status_code)


def attack(service: RunningService, seen: Seen, stop: threading.Event, seed: int) -> None:
    rnd = random.Random(seed)
    for number in count(seed):
        make = ATTACKS[number % len(ATTACKS)]
        path, body, headers = make(rnd)
        status = post(service.url, path, body, {"Authorization": f"Bearer {GREEDY}"} | headers, 5)
        seen.greedy[f"{make.__name__} {status}"] += 1
        if stop.is_set():
            return


def hold_back(service: RunningService, seen: Seen, stop: threading.Event) -> None:
    """Announce large bodies, send a part of each, and let it wait for the rest."""
    head = (
        f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {GREEDY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {8 * MIB}\r\n\r\n"
    )
    while not stop.wait(HOLD_EVERY_S):  # held bodies keep the other attacks out
        with ExitStack() as stack:
            for _ in range(HELD_BACK):
                caller = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 10))
                with suppress(OSError):  # refused by the server
                    caller.sendall(head.encode() + b" " * MIB)
                seen.greedy["hold_back opened"] += 1
            stop.wait(2)


def be_served(service: RunningService, seen: Seen, stop: threading.Event) -> None:
    while not stop.wait(PAUSE_S):
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {OTHER}"}
        seen.other[post(service.url, "/v1/chat/completions", CHAT | {"max_tokens": 3}, headers, OTHER_WAIT_S)] += 1
        seen.other_s.append(time.monotonic() - began)


def processes(service: RunningService) -> Iterator[tuple[str, psutil.Process]]:
    for name, started in service.processes.items():
        root = psutil.Process(started.pid)
        for number, process in enumerate((root, *root.children(recursive=True))):
            yield f"{name} {number}", process


def sample(service: RunningService, redis: Any, began: float) -> dict[str, float]:
    found = {"s": time.monotonic() - began, "redis used": float(redis.info("memory")["used_memory"])}
    for name, process in processes(service):
        try:
            found[name] = float(process.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return found


def run(service: RunningService, seconds: float, num_attackers: int, every_s: float) -> Seen:
    """Attack a service that is running, whose two keys are ours."""
    seen, stop, redis = Seen(), threading.Event(), service.redis()
    began = time.monotonic()
    seen.samples.append(sample(service, redis, began))
    threads = [threading.Thread(target=attack, args=(service, seen, stop, seed)) for seed in range(num_attackers)]
    threads.append(threading.Thread(target=hold_back, args=(service, seen, stop)))
    threads.append(threading.Thread(target=be_served, args=(service, seen, stop)))
    for thread in threads:
        thread.start()
    while time.monotonic() - began < seconds:
        time.sleep(every_s)
        seen.samples.append(sample(service, redis, began))
    stop.set()
    for thread in threads:
        thread.join()
    return seen


def settings(max_memory: str) -> dict[str, str]:
    return {"OMNI_MAX_MEMORY": max_memory, "OMNI_API_KEYS": f"{GREEDY},{OTHER}"}


def told(seen: Seen) -> str:
    names = list(seen.samples[-1])
    rows = [[one["s"], *(round(one.get(name, 0.0) / MIB) for name in names[1:])] for one in seen.samples]
    answers = sorted(seen.greedy.items())
    return "\n\n".join(
        (
            "MiB over time\n\n" + table(["s", *names[1:]], rows),
            "The greedy key\n\n" + table(["attack, answer", "times"], answers),
            f"The other key: {dict(seen.other)}, p50 {percentile(seen.other_s, 0.5):.2f} s, "
            f"max {max(seen.other_s, default=0.0):.2f} s",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--attackers", type=int, default=8)
    parser.add_argument("--max-memory", default="128mb", help="OMNI_MAX_MEMORY of the service that is attacked")
    args = parser.parse_args()
    print(f"{machine()}; load average {load_average()}", flush=True)
    with tempfile.TemporaryDirectory() as folder, RunningService(Path(folder), settings(args.max_memory)) as service:
        service.start()
        limit = int(service.redis().info("memory")["maxmemory"])
        seen = run(service, args.seconds, args.attackers, max(1.0, args.seconds / 20))
    print(told(seen))
    faults = seen.verdict(limit)
    if not any(answer.endswith("429 max_kept_bytes") for answer in seen.greedy):
        faults.append("the greedy key did not fill its share: it ran for too short a time")
    print(
        "\n" + ("; ".join(faults) if faults else "The other key was served all the while, within the memory allowed.")
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
