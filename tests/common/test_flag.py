"""A flag that signal handlers set: a signal inside the handler does not hang it."""

import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys, threading
from common.flag import Flag

flag = Flag() if sys.argv[1] == "ours" else threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: flag.set())
sys.setprofile(lambda *_: signal.raise_signal(signal.SIGUSR1))  # at each call inside set()
flag.set()
sys.setprofile(None)
print("set" if flag.wait(1) else "lost")
"""


def outcome(kind: str) -> str:
    try:
        return subprocess.run([sys.executable, "-c", SCRIPT, kind], capture_output=True, text=True, timeout=5).stdout
    except subprocess.TimeoutExpired:
        return "hangs"


@pytest.mark.parametrize(("kind", "expected"), [("ours", "set\n"), ("threading.Event", "hangs")])
def test_a_signal_inside_the_handler_does_not_hang_it(kind: str, expected: str) -> None:
    assert outcome(kind) == expected
