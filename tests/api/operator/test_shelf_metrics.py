"""/metrics and /health of a table of models."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.redis import keys
from common.redis.metrics import Tally
from tests.api.shelves import GIB, ShelvedApi


@pytest.fixture
def api(redis, valkey_url, tmp_path, encoder):
    return ShelvedApi(redis, valkey_url, tmp_path, encoder.card)


def scrape(api):
    text = api.send("GET", "/metrics").get_data(as_text=True)
    families = text_string_to_metric_families(text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_metrics_tell_what_is_loaded_and_what_was_swapped(api, redis):
    api.change("b", num_swapped_out=3)
    tally = Tally("b")
    tally.add("model_swaps|waiting", 2)
    tally.observe("model_swap_time", 1400.0)
    tally.flush(redis)
    found = scrape(api)
    loaded = {queue: found["omni:model_loaded", queue] for queue in ("org/a", "b", "broken")}
    assert loaded == {"org/a": 1.0, "b": 0.0, "broken": 0.0}
    assert found["omni:model_memory_bytes", "org/a"] == 5 * GIB and found["omni:model_memory_bytes", "b"] == 0
    assert found["omni:memory_used_bytes", "org/a"] == 5 * GIB, "not once more for each queue of the process"
    assert found["omni:model_loaded_seconds", "org/a"] == pytest.approx(time.time() - 1e9, abs=60)
    assert (found["omni:swapped_out_jobs", "b"], found[("omni:warm_bytes",)]) == (3.0, GIB)
    assert (found[("omni:shelf_capacity_bytes",)], found[("omni:shelf_used_bytes",)]) == (10 * GIB, 5 * GIB)
    assert found["omni:model_swaps_total", "b", "waiting"] == 2.0
    assert found["omni:model_swap_time_seconds_sum", "b"] == pytest.approx(1.4)


def test_a_tables_worker_is_healthy_once_it_takes_jobs_whatever_is_loaded(api, redis):
    assert api.send("GET", "/health").status_code == 503
    redis.zadd(keys.WORKERS, {"1": 1})
    redis.hset(keys.worker_key(1), mapping={"queue": "b", "state": "unloaded"})
    health = api.send("GET", "/health")
    assert (health.status_code, health.get_json()["status"]) == (200, "healthy")
    assert health.get_json()["model"] == "org/a"
    assert health.get_json()["models"] == {"b": "cold", "broken": "failed", "org/a": "loaded"}
    assert health.get_json()["gpu_memory_used"] == "5GB"


def test_health_names_the_first_model_of_the_table_that_is_served(api, redis):
    redis.zadd(keys.WORKERS, {"1": 1})
    redis.hset(keys.worker_key(1), mapping={"queue": "b", "state": "unloaded"})
    api.change("org/a", status="failed", fault="it has no weights.", may_retry=False)
    health = api.send("GET", "/health").get_json()
    assert (health["model"], health["models"]["org/a"]) == ("b", "failed")


def test_the_board_gets_the_shelf(api):
    frame = next(iter(api.send("GET", "/admin/board").response))
    assert b'"shelves":[{"worker":"w"' in frame and b'"why"' in frame
