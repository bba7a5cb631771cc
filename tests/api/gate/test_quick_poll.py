"""Under gevent a look that waits for nothing costs nobody's turn, and one that waits gives it."""

import select
import socket
import subprocess
import sys

import pytest

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import select, socket, sys
import gevent
from api.gate import quick_poll
if sys.argv[1] == "quick":
    quick_poll.install()
near, far = socket.socketpair()
turns = []
other = gevent.spawn(turns.append, "other")
poller = select.poll()
poller.register(near, select.POLLIN)
assert poller.poll(0) == []
print(len(turns))
gevent.spawn_later(0.01, far.send, b"x")
assert poller.poll(2000) == [(near.fileno(), select.POLLIN)] == poller.poll(0)
poller.unregister(near)
assert poller.poll(0) == []
print(len(turns))
"""


@pytest.mark.parametrize(("kind", "turns"), [("quick", "0\n1\n"), ("gevents own", "1\n1\n")])
def test_a_look_costs_no_turn(kind: str, turns: str) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, kind], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == (turns, "")


def test_it_sees_that_the_other_side_has_left() -> None:
    from api.gate.quick_poll import QuickPoll

    near, far = socket.socketpair()
    poller = QuickPoll()
    poller.register(near, select.POLLIN | getattr(select, "POLLRDHUP", 0))
    assert poller.poll(0) == []
    far.close()
    ((fd, events),) = poller.poll(0)
    assert fd == near.fileno() and events & select.POLLIN
    near.close()
