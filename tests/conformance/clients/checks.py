"""The frame of a client's script: its checks run in order, one line each; the exit status says whether all passed."""

import asyncio
import inspect
import os
import sys
import time
from collections.abc import Callable
from typing import Any

URL = os.environ.get("OMNI_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("OMNI_KEY", "sk-local")
MODEL = "omni-demo"
HELLO = "Hello!"
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


def run(*checks: Callable[[], Any]) -> None:
    """Each check is a function whose name says what holds. Ends the process."""
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
