"""The cost of request features: `python -m bench.features`. Requests/s at `max_tokens` 1, plain and with each one.

Each row is a closed loop of a few callers against the demo service; the rows take turns, so that a busy machine slows
all of them alike.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from bench.masks import ORDER
from tests.service import RunningService

TOOL = {"type": "function", "function": {"name": "order", "description": "Places an order", "parameters": ORDER}}
SHAPE = {"type": "json_schema", "json_schema": {"name": "order", "schema": ORDER, "strict": True}}
FEATURES: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "logprobs, 5 alternatives": {"logprobs": True, "top_logprobs": 5},
    "response_format json_schema": {"response_format": SHAPE},
    "one tool, auto": {"tools": [TOOL]},
    "one tool, required": {"tools": [TOOL], "tool_choice": "required"},
    "streamed, with usage": {"stream": True, "stream_options": {"include_usage": True}},
}


def requests_per_s(service: RunningService, extra: Mapping[str, Any], callers: int, seconds: float) -> float:
    body = {"model": "omni-demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1, **extra}
    raw = json.dumps(body)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {service.key}"}
    until = time.monotonic() + seconds
    counts = [0] * callers

    def call(caller: int) -> None:
        connection = HTTPConnection("127.0.0.1", service.port)
        while time.monotonic() < until:
            connection.request("POST", "/v1/chat/completions", raw, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            counts[caller] += 1

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one row in one round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in FEATURES}
    with tempfile.TemporaryDirectory() as folder:
        service = RunningService(Path(folder)).start()
        try:
            for _ in range(options.rounds):
                for name, extra in FEATURES.items():
                    found[name].append(requests_per_s(service, extra, options.callers, options.seconds))
        finally:
            service.stop()
    plain = median(found["plain"])
    for name, rates in found.items():
        rate = median(rates)
        print(f"| {name} | {rate:.0f} | {1000 / rate - 1000 / plain:+.2f} |")


if __name__ == "__main__":
    main()
