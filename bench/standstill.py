"""The delay of other callers of an API process by one caller's largest requests.

    python -m bench.hostile --standstill                       8 MB of each kind, against a weightless engine
    python -m bench.hostile --standstill --bytes 200000 --only chat,tokenize

While each body is sent, another process asks /livez without a pause and reads an open stream (a token every 10 ms). The
table says the longest wait of each beside that of an idle service.
"""

import http.client
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bench.large_bodies import Body, bodies
from bench.report import load_average, machine, table
from tests.chaos.harness import KEYS, Harness, Options, running
from worker.jobs.ledger import Ledger

COLUMNS = ("body", "MB", "answer", "took s", "/livez ms", "stream ms")
IDLE_S = 3.0
SETTLE_S = 0.15
STEP_S = 0.01
ANSWER_S = 70.0
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEYS[0]}", "anthropic-version": "2023-06-01"}
OPTIONS = Options(worker_module="bench.wide_worker", through_proxy=False, step_s=STEP_S)


@dataclass(frozen=True, slots=True)
class Measured:
    """The delay of others by one body, in milliseconds."""

    body: Body
    status: str
    took_s: float
    livez_ms: float
    stream_ms: float

    @property
    def row(self) -> tuple[object, ...]:
        size = f"{len(self.body.raw) / 1e6:.2f}"
        return (
            self.body.name,
            size,
            self.status,
            f"{self.took_s:.2f}",
            f"{self.livez_ms:.0f}",
            f"{self.stream_ms:.0f}",
        )


class Watch:
    """The longest waits since the last look, those that have not ended included."""

    def __init__(self, port: int) -> None:
        self._waits = multiprocessing.Array("d", 4, lock=False)  # /livez: worst, since; the stream: worst, since
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=watch, args=(port, self._waits), daemon=True)

    def __enter__(self) -> "Watch":
        self._process.start()
        while not (self._waits[1] and self._waits[3]):
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def forget(self) -> None:
        self._waits[0] = self._waits[2] = 0.0

    def longest_ms(self) -> tuple[float, float]:
        """Of /livez and of the stream."""
        now = time.monotonic()
        livez, stream = (max(self._waits[place], now - self._waits[place + 1]) for place in (0, 2))
        return livez * 1000, stream * 1000


def watch(port: int, waits: Any) -> None:
    threading.Thread(target=read_streams, args=(port, waits), daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    while True:
        waits[1] = time.monotonic()
        try:
            connection.request("GET", "/livez")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
            continue
        waits[0] = max(waits[0], time.monotonic() - waits[1])
        time.sleep(0.001)


def read_streams(port: int, waits: Any) -> None:
    """One stream after the other, as long as each may be."""
    body = {"model": "fake", "prompt": "x", "max_tokens": 100_000, "stream": True}
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), HEADERS)
            response = connection.getresponse()
            waits[3] = time.monotonic()
            while response.read1(65536):
                now = time.monotonic()
                waits[2], waits[3] = max(waits[2], now - waits[3]), now
        except (OSError, http.client.HTTPException):
            connection.close()
        time.sleep(0.1)


@contextmanager
def wide_service(**options: Any) -> Iterator[Harness]:
    """One API process, a worker, and the card of an encoder without a worker."""
    with running(replace(OPTIONS, **options)) as harness:
        from bench.wide_worker import wide_card

        card = replace(wide_card(("embedder",)), task="embed", num_dimensions=384, accepts_images=False)
        Ledger(harness.redis, "embedder", "embedder").publish_card(card)
        yield harness


def measure(watched: Watch, port: int, body: Body) -> Measured:
    watched.forget()
    began = time.monotonic()
    status = sent(port, body)
    took_s = time.monotonic() - began
    time.sleep(SETTLE_S)
    return Measured(body, status, took_s, *watched.longest_ms())


def sent(port: int, body: Body) -> str:
    """The answer's status, or how the connection broke."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        if body.chunk:
            return sent_in_chunks(connection, body)
        connection.request(body.method, body.path, body.raw or None, HEADERS)
        response = connection.getresponse()
        response.read()
        return str(response.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def sent_in_chunks(connection: http.client.HTTPConnection, body: Body) -> str:
    size = f"{body.chunk:x}\r\n".encode()
    whole, rest = divmod(len(body.raw), body.chunk)
    pieces = [size + body.raw[number * body.chunk : (number + 1) * body.chunk] + b"\r\n" for number in range(whole)]
    if rest:
        pieces.append(f"{rest:x}\r\n".encode() + body.raw[-rest:] + b"\r\n")
    raw = b"".join(pieces) + b"0\r\n\r\n"
    connection.putrequest(body.method, body.path)
    for name, value in {**HEADERS, "Transfer-Encoding": "chunked"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(raw)
    response = connection.getresponse()
    response.read()
    return str(response.status)


def idle(watched: Watch) -> Measured:
    watched.forget()
    time.sleep(IDLE_S)
    return Measured(Body("(nothing)", "", b""), "", IDLE_S, *watched.longest_ms())


def standstills(size: int, only: Sequence[str] = ()) -> Iterator[Measured]:
    """The idle service first, then each kind of body."""
    with wide_service() as harness, Watch(harness.port) as watched:
        yield idle(watched)
        for body in bodies(size):
            if not only or any(part in body.name or part == body.path for part in only):
                yield measure(watched, harness.port, body)


def report(size: int, only: Sequence[str]) -> None:
    print(machine(), f"load average {load_average()}", sep="; ")
    print(table(COLUMNS, ()))
    for measured in standstills(size, only):
        print("| " + " | ".join(map(str, measured.row)) + " |", flush=True)
    print(f"load average {load_average()}")
