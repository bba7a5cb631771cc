"""Under gevent, asking a quiet connection for a reply does not let other greenlets run."""

import subprocess
import sys

import pytest

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import socket, sys
from types import SimpleNamespace
import gevent
from redis.connection import DefaultParser
from api.process.redis_seams import GreenParser
near, far = socket.socketpair()
parser = (GreenParser if sys.argv[1] == "ours" else DefaultParser)(socket_read_size=4096)
encoder = SimpleNamespace(encoding_errors="strict", decode_responses=False)
parser.on_connect(SimpleNamespace(_sock=near, socket_timeout=5, encoder=encoder))
turns = []
gevent.spawn(turns.append, "other")
assert not parser.can_read()
print(len(turns))
gevent.spawn_later(0.01, far.sendall, b"+PONG\\r\\n")
assert parser.can_read(2)
print(len(turns))
"""


@pytest.mark.parametrize(("parser", "turns"), [("ours", "0\n1\n"), ("redis-py's", "1\n1\n")])
def test_a_check_that_does_not_wait_costs_no_turn(parser: str, turns: str) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, parser], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == (turns, "")
