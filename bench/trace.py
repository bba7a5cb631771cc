"""The service's processes with timers around the functions on a request's path: `python -m bench.trace api|worker`.

Started by bench.overhead only. Every call becomes a line [name, start, end] in the file that BENCH_TRACE names; the
clock is the machine's, so lines of several processes can be laid side by side.
"""

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson

FLUSH_S = 0.5
Place = tuple[str, str, str]  # name of the span, module, attribute in it
API: tuple[Place, ...] = (
    ("request", "flask", "Flask.wsgi_app"),
    ("parse", "api.jobs.call", "read_body"),
    ("parse", "api.jobs.call", "parse"),
    ("prompt", "api.prompt.encoder", "PromptEncoder.encode_chat"),
    ("submit", "common.redis.store", "Store.submit"),
    ("hub", "api.jobs.hub", "EventHub.dispatch"),
    ("chunks", "api.chat.chunks", "ChatChunks.feed"),
    ("frame", "api.jobs.sse", "frame"),
)
WORKER: tuple[Place, ...] = (
    ("claim", "worker.jobs.ledger", "Ledger.claim"),
    ("add", "worker.engine.engine", "Engine.add"),
    ("step", "worker.engine.engine", "Engine.step"),
    ("forward", "worker.runners.base", "ModelRunner.forward"),
    ("sample", "worker.engine.step", "sample"),
    ("detokenize", "worker.state.detokenizer", "Detokenizer.push"),
    ("append", "worker.jobs.publisher", "Publisher.send"),
    ("confirm", "worker.jobs.publisher", "Publisher.confirm"),
    ("telemetry", "worker.jobs.telemetry", "Telemetry.observe"),
)


class Spans:
    """Collected in memory, written twice a second by a thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: list[tuple[str, float, float]] = []

    def start(self) -> None:
        threading.Thread(target=self.write_forever, daemon=True).start()

    def write_forever(self) -> None:
        while True:
            time.sleep(FLUSH_S)
            lines, self.lines = self.lines, []
            with open(self.path, "ab") as file:
                file.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            ended = time.perf_counter()
            if result is not None or name != "claim":  # an empty queue gives no claim
                self.lines.append((name, started, ended))
            return result

        return timed


def install(places: tuple[Place, ...], spans: Spans) -> None:
    """Raises AttributeError for a function that has moved; then bring this file up to date."""
    for name, module, attribute in places:
        owner: Any = importlib.import_module(module)
        *classes, last = attribute.split(".")
        for part in classes:
            owner = getattr(owner, part)
        setattr(owner, last, spans.around(name, getattr(owner, last)))
    spans.start()


def run_api(spans: Spans) -> int:
    import api.server as server

    real_load = server.Server.load

    def load(self: Any) -> Any:
        install(API, spans)  # here gevent has patched the standard library
        return real_load(self)

    server.Server.load = load  # type: ignore[method-assign]
    return server.main()


def run_worker(spans: Spans) -> int:
    install(WORKER, spans)
    from worker.main import main as worker_main

    return worker_main()


def main() -> int:
    role = sys.argv.pop(1)
    spans = Spans(os.environ["BENCH_TRACE"])
    return run_api(spans) if role == "api" else run_worker(spans)


if __name__ == "__main__":
    sys.exit(main())
