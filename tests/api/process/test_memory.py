"""Large requests trigger no full garbage collection, and their memory is returned to the system."""

import ctypes
import gc
import json
import subprocess
import sys

import gevent
import pytest
from flask import Flask, g

from api.gate.json_object import parse_object
from api.process.memory import LARGE_BYTES, THRESHOLDS, SpareMemory
from api.process.offload import in_native_thread
from api.schema.chat import ChatRequest
from api.schema.parse import parse

MOST_LISTS = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "x": [[1]] * 65_000}).encode()
PYTHON_S_OWN = (700, 10, 10)


def full_collections(thresholds, num_bodies=20):
    """The number of full collections while the worst bodies are parsed."""
    seen, before = [], gc.get_threshold()

    def note(phase, info):
        if phase == "start" and info["generation"] == 2:
            seen.append(info)

    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds)
    gc.callbacks.append(note)
    try:
        for _ in range(num_bodies):
            parse(ChatRequest, parse_object(MOST_LISTS))
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*before)
        gc.unfreeze()
    return len(seen)


def test_large_bodies_trigger_no_full_collection():
    assert full_collections(THRESHOLDS) == 0
    assert full_collections(PYTHON_S_OWN) > 0


@pytest.mark.parametrize(("num_bytes", "num_trims"), [(LARGE_BYTES, 1), (LARGE_BYTES - 1, 0)])
def test_memory_is_given_back_once_after_large_bodies(num_bytes, num_trims):
    app, spare, trims = Flask("test"), SpareMemory(), []
    spare._trim = trims.append
    spare.install(app)

    @app.post("/")
    def take():
        g.num_body_bytes = num_bytes
        return ""

    for _ in range(3):
        app.test_client().post("/")
    assert not trims
    for _ in range(3):
        spare.give_back()
    with gevent.Timeout(10):
        while len(trims) < num_trims:
            gevent.sleep(0.001)
    in_native_thread(int)  # work that was started before it has ended
    assert len(trims) == num_trims


WORK = """
import sys, threading, psutil
from api.process.memory import return_large_blocks
if sys.argv[1] == "ours":
    return_large_blocks()
kept = []

def work():
    for _ in range(3):
        blocks = [b"x" * (3 << 20) for _ in range(12)]
        kept.append(b"x" * 100_000)  # lies behind them in the heap
        del blocks

before = psutil.Process().memory_info().rss
for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(psutil.Process().memory_info().rss - before >> 20)
"""


def mib_left_by_large_blocks(whose):
    done = subprocess.run([sys.executable, "-c", WORK, whose], capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator")
def test_memory_of_large_blocks_is_returned_when_they_are_freed():
    assert mib_left_by_large_blocks("ours") < 4 < mib_left_by_large_blocks("glibc's own")
