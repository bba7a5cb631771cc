"""Ollama's API in front of a table of models: what is loaded, keep_alive, and requests that only load."""

from datetime import datetime

import pytest

from common.redis import keys
from common.wire_codec import decode_request
from tests.api.shelves import GIB, ShelvedApi

LOADED = {"status": "loaded", "kv_bytes": GIB, "unload_at": 2e9}


@pytest.fixture
def api(redis, valkey_url, tmp_path, encoder):
    return ShelvedApi(redis, valkey_url, tmp_path, encoder.card)


def test_tags_list_all_models_and_ps_those_that_are_loaded(api):
    assert [model["name"] for model in api.send("GET", "/api/tags").get_json()["models"]] == [
        "org/a:latest", "default:latest", "b:latest", "sql:latest",
    ]  # fmt: skip
    names = {"org/a:latest", "default:latest", "sql:latest"}
    assert {model["name"] for model in api.send("GET", "/api/ps").get_json()["models"]} == names
    api.change("b", **LOADED)
    [b] = [model for model in api.send("GET", "/api/ps").get_json()["models"] if model["name"] == "b:latest"]
    assert (b["size"], b["size_vram"]) == (3 * GIB, 3 * GIB)
    assert datetime.fromisoformat(b["expires_at"]).timestamp() == 2e9
    assert api.send("POST", "/api/show", {"model": "b"}).status_code == 200


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_request_without_a_question_is_answered_when_its_model_is_loaded(api, path):
    worker = api.obey({"status": "loading"}, LOADED)
    answer = api.send("POST", path, {"model": "b", "keep_alive": "1h30m"}).get_json()
    worker.join()
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, "load", "b")
    assert [(order.queue, order.action, order.keep_alive_s) for order in api.orders] == [("b", "load", 5400.0)]


def test_with_keep_alive_0_its_model_may_go(api):
    answer = api.send("POST", "/api/generate", {"model": "org/a", "keep_alive": 0}, key="sk-local").get_json()
    assert answer["done_reason"] == "unload"
    [order] = api.take_orders()
    assert (order.queue, order.action, order.keep_alive_s) == ("org/a", "unload", 0.0)


def test_loading_that_fails_is_an_error(api):
    api.obey({"status": "loading"}, {"status": "cold", "fault": "out of memory"})
    failed = api.send("POST", "/api/generate", {"model": "b"})
    assert failed.status_code == 500 and "out of memory" in failed.get_json()["error"]


@pytest.mark.parametrize(("sent", "carried"), [("5m", 300.0), (-1, -1.0), (0, 0.0), (None, None), ("", None)])
def test_keep_alive_goes_to_the_worker_with_the_question(api, redis, sent, carried):
    stream = api.send("POST", "/api/generate", {"model": "b", "prompt": "Hi", "keep_alive": sent})
    raw = redis.hget(keys.job_key(stream.headers["Omni-Job-Id"]), "request")
    stream.close()
    assert decode_request(raw).keep_alive_s == carried


def test_a_keep_alive_that_nobody_understands_is_refused(api):
    refused = api.send("POST", "/api/generate", {"model": "b", "prompt": "Hi", "keep_alive": "soon"})
    assert refused.status_code == 400 and "'keep_alive'" in refused.get_json()["error"]
