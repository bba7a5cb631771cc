"""/v1/models of a table: what it says of each model, and orders to load, unload and pin."""

import time

import pytest

from api.models import orders
from common.redis import keys
from common.redis.served.shelf import ShelfStore
from tests.api.shelves import GIB, ShelvedApi

LOADING = {"status": "loading", "share": 0.5, "what": "reading weights", "fault": ""}
LOADED = {"status": "loaded"}
HELD = "its place is held by pinned models: org/a"


@pytest.fixture
def api(redis, valkey_url, tmp_path, encoder):
    return ShelvedApi(redis, valkey_url, tmp_path, encoder.card)


def test_every_model_and_adapter_is_listed_with_its_place(api):
    found = {model["id"]: model for model in api.send("GET", "/v1/models").get_json()["data"]}
    assert list(found) == ["org/a", "default", "b", "sql", "broken"]
    assert found["org/a"]["status"] == {"value": "loaded", "state": "loaded"}
    assert (found["org/a"]["memory"], found["org/a"]["size"], found["org/a"]["eta_s"]) == (5 * GIB, 4 * GIB, 0.0)
    assert found["sql"]["parent"] == "org/a" and found["sql"]["status"]["value"] == "loaded"
    assert found["b"]["status"] == {"value": "unloaded", "state": "cold"}
    assert (found["b"]["memory"], found["b"]["eta_s"], found["b"]["task"]) == (0, 12.5, "generate")
    assert found["b"]["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
    assert found["broken"]["architecture"] is None
    broken = {"value": "unloaded", "state": "failed", "failed": True, "reason": "it has no weights."}
    assert found["broken"]["status"] == broken and found["broken"]["max_model_len"] is None
    assert api.send("GET", "/models").get_json()["data"] == api.send("GET", "/v1/models").get_json()["data"]


def test_openais_client_reads_the_list_and_a_model(api):
    client = api.openai()
    assert [model.id for model in client.models.list()][:2] == ["org/a", "default"]
    assert client.models.retrieve("b").status["state"] == "cold"


def test_progress_and_waiting_jobs_are_shown(api, redis):
    api.change("b", **LOADING, is_pinned=True, keep_alive_s=300.0, unload_at=2e9)
    job = {"model": "b", "messages": [{"role": "user", "content": "Hi"}], "background": True}
    assert api.send("POST", "/v1/chat/completions", job).status_code == 202
    model = api.model("b")
    assert model["status"] == {"value": "loading", "state": "loading", "progress": 0.5, "what": "reading weights"}
    assert (model["pinned"], model["keep_alive"], model["expires_at"], model["waiting"]) == (True, 300.0, 2e9, 1)


def test_a_job_of_a_model_that_is_not_loaded_is_accepted_and_shows_why_it_waits(api):
    job = {"model": "b", "messages": [{"role": "user", "content": "Hi"}], "background": True, "keep_alive": "5m"}
    begun = api.send("POST", "/v1/chat/completions", job).get_json()
    assert (begun["status"], begun["model_status"], begun["paused"]) == ("queued", "cold", False)
    shown = api.send("GET", f"/v1/jobs/{begun['id']}").get_json()
    assert (shown["model_status"], shown["paused"]) == ("cold", False)
    assert b'"keep_alive_s":300.0' in api.redis.hget(f"omni:job:{begun['id']}", "request")
    api.change("b", **LOADED)
    assert api.send("GET", "/v1/jobs").get_json()["data"][0]["model_status"] == "loaded"


def test_a_model_that_cannot_be_loaded_says_why_and_an_unknown_one_is_404(api):
    asked = {"messages": [{"role": "user", "content": "Hi"}]}
    refused = api.send("POST", "/v1/chat/completions", asked | {"model": "broken"})
    assert refused.status_code == 500 and refused.headers["x-should-retry"] == "false"
    error = refused.get_json()["error"]
    assert error["code"] == "model_load_failed" and "'broken' cannot be loaded: it has no weights." in error["message"]
    assert api.send("POST", "/v1/chat/completions", asked | {"model": "c"}).status_code == 404
    api.change("b", status="cold", fault="out of memory", may_retry=True)
    accepted = api.send("POST", "/v1/chat/completions", asked | {"model": "b", "background": True})
    assert accepted.status_code == 202


def test_before_the_worker_has_written_a_card_its_model_is_not_ready(api, redis):
    redis.hdel("omni:queues", "b")
    redis.hset("omni:loading:b", mapping={"what": "its files", "share": "0.25"})
    asked = {"model": "b", "messages": [{"role": "user", "content": "Hi"}]}
    refused = api.send("POST", "/v1/chat/completions", asked)
    assert refused.status_code == 503 and refused.headers["Retry-After"]
    assert refused.get_json()["error"]["message"] == "Model not ready: its files (25%)"


@pytest.mark.parametrize(
    ("action", "name", "change", "queue"),
    [
        ("load", "b", LOADED, "b"),
        ("load", "sql", LOADED, "org/a"),
        ("load", "default", LOADED, "org/a"),
        ("unload", "org/a", {"status": "warm"}, "org/a"),
        ("pin", "b", {"is_pinned": True, **LOADED}, "b"),
        ("unpin", "b", {"is_pinned": False}, "b"),
    ],
)
@pytest.mark.parametrize("how", ["query", "body"])
def test_an_order_is_answered_with_the_model_when_it_is_done(api, action, name, change, queue, how):
    if action == "unpin":
        api.change("b", is_pinned=True)
    if (action, queue) == ("load", "org/a"):
        api.change("org/a", status="warm")
    worker = api.obey(change)
    path = f"/v1/models/{name}/{action}"
    done = api.send("POST", f"{path}?wait=20") if how == "query" else api.send("POST", path, {"wait": True})
    worker.join()
    assert (done.status_code, done.get_json()["id"]) == (200, name)
    assert [(order.queue, order.action) for order in api.orders] == [(queue, action)]


@pytest.mark.parametrize("action", ["load", "pin"])
def test_an_order_for_a_model_whose_place_pinned_models_hold_is_a_conflict_that_names_them(api, action, monkeypatch):
    monkeypatch.setattr(orders, "STALE_S", 0.0)
    api.change("b", why=HELD)
    refused = api.send("POST", f"/v1/models/b/{action}?wait=20")
    assert refused.status_code == 409 and f"'b' cannot be loaded: {HELD}." in refused.get_json()["error"]["message"]
    assert api.model("b")["status"] == {"value": "unloaded", "state": "cold", "why": HELD}
    assert api.send("POST", "/v1/models/b/unload?wait=20").status_code == 200


def test_a_pin_is_not_done_before_its_model_is_loaded(api):
    api.change("b", is_pinned=True)
    assert api.send("POST", "/v1/models/b/pin?wait=0.1").status_code == 202
    api.change("b", **LOADED)
    assert api.send("POST", "/v1/models/b/pin?wait=0.1").status_code == 200


def test_without_wait_an_order_is_accepted_and_shows_the_model_as_it_is(api):
    ordered = api.send("POST", "/v1/models/b/load", {"keep_alive": "10m"})
    assert (ordered.status_code, ordered.get_json()["status"]["state"]) == (202, "cold")
    [order] = api.take_orders()
    assert (order.queue, order.action, order.keep_alive_s) == ("b", "load", 600.0)
    slow = api.send("POST", "/v1/models/b/load?wait=0.1")
    assert slow.status_code == 202


def test_an_order_for_a_loaded_model_is_done_when_its_keep_alive_is_taken(api):
    api.change("b", **LOADED, keep_alive_s=300.0)
    ordered = api.send("POST", "/v1/models/b/load", {"keep_alive": "10m"})
    assert (ordered.status_code, ordered.get_json()["keep_alive"]) == (202, 300.0)
    api.take_orders()
    worker = api.obey({"keep_alive_s": 600.0})
    done = api.send("POST", "/v1/models/b/load?wait=20", {"keep_alive": "10m"})
    worker.join()
    assert (done.status_code, done.get_json()["keep_alive"]) == (200, 600.0)


@pytest.mark.parametrize("before", ["", "out of memory"])
def test_an_order_to_load_that_fails_says_why(api, before):
    api.change("b", fault=before)
    worker = api.obey(LOADING, {"status": "cold", "fault": "out of memory", "may_retry": True})
    failed = api.send("POST", "/v1/models/b/load?wait=true")
    worker.join()
    assert failed.status_code == 500
    assert failed.get_json()["error"]["message"] == "The model 'b' could not be loaded: out of memory"


def test_jobs_that_wait_for_a_model_without_a_card_are_counted(api, redis):
    redis.zadd(keys.waiting_key("broken"), {"1:job": 1})
    assert api.model("broken")["waiting"] == 1


def test_a_model_without_a_card_can_be_ordered_again_once_it_is_mended(api):
    api.obey(LOADING, LOADED)
    assert api.send("POST", "/v1/models/broken/load?wait=5").status_code == 200


@pytest.mark.parametrize("action", ["unload", "pin", "unpin"])
def test_anything_else_is_refused_for_an_adapter(api, action):
    refused = api.send("POST", f"/v1/models/sql/{action}")
    assert refused.status_code == 400 and "adapter of 'org/a'" in refused.get_json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models/b/load", "/v1/models/b/unload", "/v1/models/b/pin", "/models/load"])
def test_orders_need_an_admin_key(api, path):
    assert api.send("POST", path, {"model": "b"}, key="sk-local").status_code == 403
    assert not api.take_orders()


def test_unknown_models_and_words_are_refused(api):
    assert api.send("POST", "/v1/models/none/load").status_code == 404
    assert api.send("POST", "/v1/models/b/drop").status_code in (404, 405)
    for wrong in ("nan", "-1", "601", "soon"):
        assert api.send("POST", f"/v1/models/b/load?wait={wrong}").status_code == 400
    assert api.send("POST", "/v1/models/b/load", {"wait": -1}).status_code == 400
    for seconds in ("soon", 0):
        assert api.send("POST", "/v1/models/b/load", {"keep_alive": seconds}).status_code == 400
    assert not api.take_orders()


def test_llama_cpps_words_order_the_same(api):
    for action in ("load", "unload"):
        assert api.send("POST", f"/models/{action}", {"model": "org/a"}).get_json() == {"success": True}
    assert [order.action for order in api.take_orders()] == ["load", "unload"]
    assert api.send("POST", "/models/load", {"model": "none"}).status_code == 404


def test_an_order_waits_for_a_worker_that_was_killed(api):
    api.report(at=time.time() - 60)
    assert api.send("POST", "/v1/models/b/load").status_code == 202
    assert [order.queue for order in api.take_orders()] == ["b"]


def test_a_worker_with_one_model_keeps_it(redis, valkey_url, tmp_path, encoder):
    api = ShelvedApi(redis, valkey_url, tmp_path, encoder.card, OMNI_MODELS="", OMNI_MODEL_NAME="org/a")
    ShelfStore(redis).forget("w")
    redis.zadd("omni:workers", {"1": 1})
    redis.hset("omni:worker:1", mapping={"queue": "org/a"})
    assert api.model("org/a")["status"]["state"] == "loaded"
    assert api.send("POST", "/v1/models/org/a/load").status_code == 200
    refused = api.send("POST", "/v1/models/org/a/unload")
    assert refused.status_code == 409 and "OMNI_MODELS" in refused.get_json()["error"]["message"]


def test_what_the_table_had_before_is_served_no_more_and_what_other_workers_serve_is(api, redis):
    """Cards stay in Redis, and so do the ids of a table that was edited."""
    redis.hset("omni:queues", mapping={"alias": "org/a", "removed": "removed", "other": "other"})
    redis.mset({"omni:card:removed": redis.get("omni:card:b"), "omni:card:other": redis.get("omni:card:b")})
    redis.zadd("omni:workers", {"7": 7})
    redis.hset("omni:worker:7", mapping={"queue": "other"})
    listed = {model["id"] for model in api.send("GET", "/v1/models").get_json()["data"]}
    assert not {"alias", "removed"} & listed and "other" in listed
    body = {"prompt": "x", "background": True}
    asked = {
        name: api.send("POST", "/v1/completions", body | {"model": name}) for name in ("alias", "removed", "other")
    }
    statuses = {name: answer.status_code for name, answer in asked.items()}
    assert statuses == {"alias": 404, "removed": 404, "other": 202}


def test_before_the_first_report_nothing_is_said_to_be_loaded_and_orders_are_taken(api, redis):
    api.store.forget("w")
    redis.zadd("omni:workers", {"1": 1})
    redis.hset("omni:worker:1", mapping={"queue": "b", "state": "ready"})
    assert api.model("b")["status"]["state"] == "cold"
    assert api.send("GET", "/health").get_json()["models"] == {}
    assert api.send("POST", "/v1/models/b/load").status_code == 202
    assert [order.queue for order in api.take_orders()] == ["b"]
