"""Runs a client's checks in order and prints a line for each; the exit status is 0 if all passed."""

import asyncio
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

URL = os.environ.get("OMNI_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("OMNI_KEY", "sk-local")
MODEL = os.environ.get("OMNI_CLIENT_MODEL", "omni-demo")
HELLO = "Hello!"
LONG: dict[str, Any] = {"max_tokens": 3000, "extra_body": {"ignore_eos": True}}  # an answer that no check waits for
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def jobs() -> list[dict[str, Any]]:
    """The key's own jobs, as the service lists them."""
    asked = Request(f"{URL}/v1/jobs", headers={"Authorization": f"Bearer {KEY}"})
    with urlopen(asked, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]
    return found


@contextmanager
def leaving() -> Iterator[None]:
    """A request of the block that is abandoned there must be cancelled soon."""
    known = {job["id"] for job in jobs()}
    yield
    deadline = time.monotonic() + 15
    while True:
        states = [job["state"] for job in jobs() if job["id"] not in known]
        if states and not {"queued", "running"} & set(states):
            break
        assert time.monotonic() < deadline, f"still {states}"
        time.sleep(0.05)
    assert "cancelled" in states, states


@contextmanager
def restarted(signal_name: str) -> Iterator[Callable[[], None]]:
    """Gives a function that has the API restarted; the block's end waits until those that served have left.

    SIGHUP is a deploy by the supervisor, SIGTERM goes to each of its children.
    """
    supervisor = int(os.environ["OMNI_API_PID"])
    old = [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]

    def restart() -> None:
        for pid in [supervisor] if signal_name == "SIGHUP" else old:
            os.kill(pid, signal.Signals[signal_name])

    try:
        yield restart
    finally:
        wait_for_the_end_of(old)
    with urlopen(f"{URL}/livez", timeout=60):  # waits for the next to accept it
        pass


def wait_for_the_end_of(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "the old processes stay"
        time.sleep(0.05)


def run(*checks: Callable[[], Any]) -> None:
    """Run the checks, each a function named after what it checks. Ends the process."""
    num_failed = 0
    for check in checks:
        name = check.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            outcome = check()
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)
        except Exception as error:
            num_failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        else:
            print(f"ok   {name} ({time.monotonic() - started:.1f} s)", flush=True)
    sys.exit(1 if num_failed else 0)
