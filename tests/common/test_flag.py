"""A flag that signal handlers set: many signals at once do not hang its waiter."""

import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import signal, sys, threading
from common.flag import Flag

flag = Flag() if sys.argv[1] == "ours" else threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: flag.set())
signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(7)))
print("ready", flush=True)
while True:
    flag.wait(0.01)
    flag.clear()
    print("goes on", flush=True)
"""


def survives(kind: str) -> bool:
    """Whether the waiter still works after a second of signals."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT, kind], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 1
        while time.monotonic() < until and process.poll() is None:
            process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(5) == 7
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
            reader.wait()


@pytest.mark.parametrize(("kind", "is_alive"), [("ours", True), ("threading.Event", False)])
def test_signals_inside_the_handler_do_not_hang_it(kind: str, is_alive: bool) -> None:
    assert survives(kind) == is_alive
