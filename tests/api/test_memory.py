"""Large requests neither make this process search all its objects for garbage nor keep its memory."""

import gc
import json

import gevent
import pytest
from flask import Flask, g

from api.aside import beside
from api.gate import parse
from api.json_object import parse_object
from api.memory import LARGE_BYTES, THRESHOLDS, SpareMemory
from api.schema import ChatRequest

MOST_LISTS = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "x": [[1]] * 65_000}).encode()
PYTHON_S_OWN = (700, 10, 10)


def searches_of_all(thresholds, num_bodies=20):
    """How often all objects are searched while as many of the worst bodies come."""
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


def test_large_bodies_begin_no_search_of_all_objects():
    assert searches_of_all(THRESHOLDS) == 0
    assert searches_of_all(PYTHON_S_OWN) > 0


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
    beside(int)  # whatever was begun before it has ended
    assert len(trims) == num_trims
