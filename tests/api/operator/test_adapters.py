"""Loading adapters beside a table of models."""

import pytest

from tests.api.shelves import ShelvedApi

ADAPTER = {"lora_name": "de", "lora_path": "/models/de"}


@pytest.fixture
def api(redis, valkey_url, tmp_path, encoder):
    return ShelvedApi(redis, valkey_url, tmp_path, encoder.card)


def test_an_adapter_names_its_base_which_must_be_loaded(api):
    unnamed = api.send("POST", "/v1/load_lora_adapter", ADAPTER)
    assert unnamed.status_code == 400 and unnamed.get_json()["error"]["param"] == "base_model"
    cold = api.send("POST", "/v1/load_lora_adapter", ADAPTER | {"base_model": "b"})
    assert cold.status_code == 409 and "/v1/models/b/load" in cold.get_json()["error"]["message"]
    assert api.send("POST", "/v1/load_lora_adapter", ADAPTER | {"base_model": "none"}).status_code == 404


def test_an_adapter_of_a_model_that_is_not_loaded_is_unloaded_at_once(api, redis):
    api.change("org/a", status="warm")
    refused = api.send("POST", "/v1/unload_lora_adapter", {"lora_name": "sql"})
    assert refused.status_code == 400, "the table gives it"
    redis.hset(
        "omni:adapters", "de", '{"name":"de","queue":"org/a","path":"/d","number":2,"created":5,"revision":"bb"}'
    )
    assert api.send("POST", "/v1/unload_lora_adapter", {"lora_name": "de"}).status_code == 200
    assert not redis.hexists("omni:adapters", "de")
