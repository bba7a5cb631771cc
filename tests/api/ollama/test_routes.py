"""Ollama's routes with a served model and no worker."""

import json
from datetime import datetime

import pytest

from api.app import create_app
from common.redis import keys
from common.settings import read_settings
from common.wire_codec import encode_card

KEY = {"Authorization": "Bearer sk-local"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def serve(redis, valkey_url):
    def started(card, name="tiny"):
        redis.hset(keys.QUEUES, name, "tiny")
        redis.hset(keys.CARD_VERSIONS, "tiny", card.revision)
        redis.set(keys.card_key("tiny"), encode_card(card))
        redis.zadd(keys.WORKERS, {"1": 1})
        redis.hset(keys.worker_key(1), "queue", "tiny")
        client = create_app(read_settings({"REDIS_URL": valkey_url, "OMNI_MODEL_NAME": name})).test_client()

        def send(method, path, body=None, headers=KEY, **options):
            data = None if body is None else json.dumps(body)
            return client.open(path, method=method, data=data, headers=headers, **options)

        return send

    return started


@pytest.fixture
def ask(serve, encoder):
    return serve(encoder.card)


def test_models_are_listed_with_a_tag(ask, encoder):
    [model] = ask("GET", "/api/tags").get_json()["models"]
    assert model["name"] == model["model"] == "tiny:latest" and len(model["digest"]) == 64
    assert model["details"]["families"] == [encoder.card.architecture]
    assert datetime.fromisoformat(model["modified_at"]).timestamp() == encoder.card.created
    [loaded] = ask("GET", "/api/ps").get_json()["models"]
    assert loaded["context_length"] == encoder.card.max_model_len
    assert datetime.fromisoformat(loaded["expires_at"]).year > 2100


def test_files_and_packing_of_a_models_weights_are_told(serve, encoder_of):
    ask = serve(encoder_of(file_format="gguf", packing="Q4_1", file_bytes=97_000_000).card)
    [listed], [loaded] = (ask("GET", path).get_json()["models"] for path in ("/api/tags", "/api/ps"))
    shown = ask("POST", "/api/show", {"model": "tiny"}).get_json()
    for details in (listed["details"], loaded["details"], shown["details"]):
        assert (details["format"], details["quantization_level"]) == ("gguf", "Q4_1")
    assert listed["size"] == loaded["size"] == 97_000_000


@pytest.mark.parametrize("field", ["model", "name"])
@pytest.mark.parametrize("name", ["tiny", "tiny:latest"])
def test_a_model_is_shown_with_what_it_can(field, name, ask, encoder):
    shown = ask("POST", "/api/show", {field: name}).get_json()
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["template"] == encoder.card.chat_template
    architecture = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{architecture}.context_length"] == encoder.card.max_model_len


@pytest.mark.parametrize(
    ("changes", "capabilities"),
    [
        ({"accepts_images": True, "image_token": "<i>"}, ["completion", "tools", "vision"]),
        ({"chat_template": "{{ messages }}<think>"}, ["completion", "tools", "thinking"]),
        ({"task": "embed", "num_dimensions": 8}, ["embedding"]),
    ],
)
def test_capabilities_are_those_of_the_model(changes, capabilities, serve, encoder_of):
    ask = serve(encoder_of(**changes).card)
    assert ask("POST", "/api/show", {"model": "tiny"}).get_json()["capabilities"] == capabilities


@pytest.mark.parametrize(("served", "asked"), [("tiny", "tiny:latest"), ("tiny:latest", "tiny")])
def test_latest_is_the_same_model_whoever_leaves_it_out(served, asked, serve, encoder):
    ask = serve(encoder.card, served)
    for name in (served, asked):
        assert ask("POST", "/api/pull", {"model": name, "stream": False}).get_json() == {"status": "success"}
    assert [model["name"] for model in ask("GET", "/api/tags").get_json()["models"]] == ["tiny:latest"]


def test_a_served_model_is_pulled_already_and_no_other_can_be(ask):
    pulled = ask("POST", "/api/pull", {"model": "tiny"})
    assert pulled.mimetype == "application/x-ndjson"
    assert [json.loads(line)["status"] for line in pulled.data.splitlines()][-1] == "success"
    refused = ask("POST", "/api/pull", {"model": "llama3.2"})
    assert refused.status_code == 404 and "llama3.2" in refused.get_json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/create"), ("POST", "/api/copy"), ("POST", "/api/push"), ("DELETE", "/api/delete")],
)
def test_models_are_not_managed_here(method, path, ask):
    refused = ask(method, path, {"model": "tiny"})
    assert refused.status_code == 405 and "OMNI_MODEL" in refused.get_json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/api/chat", {"model": "tiny"}, "load"),
        ("/api/chat", {"model": "tiny", "messages": [], "stream": False, "keep_alive": 0}, "unload"),
        ("/api/generate", {"model": "tiny", "prompt": "", "keep_alive": "10m"}, "load"),
        ("/api/generate", {"model": "tiny", "keep_alive": "0"}, "unload"),
    ],
)
def test_a_request_without_a_question_only_loads_the_model(path, body, reason, ask):
    answer = ask("POST", path, body).get_json()
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, reason, "tiny")
    unknown = ask("POST", path, body | {"model": "other"})
    assert unknown.status_code == 404 and set(unknown.get_json()) == {"error"}


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"])
def test_a_body_is_read_whatever_type_it_is_said_to_have(content_type, ask):
    """As curl sends it without a header."""
    assert ask("POST", "/api/show", {"model": "tiny"}, content_type=content_type).status_code == 200


def test_the_version_needs_no_key_and_all_else_does(ask):
    assert ask("GET", "/api/version", headers={}).get_json()["version"]
    refused = ask("GET", "/api/tags", headers={})
    assert refused.status_code == 401 and isinstance(refused.get_json()["error"], str)
    assert ask("HEAD", "/", headers={}).status_code == 200


def test_an_answer_is_a_job_that_ends_with_its_caller(ask, redis):
    stream = ask("POST", "/api/chat", CHAT, buffered=False)
    job_id = stream.headers["Omni-Job-Id"]
    assert (stream.status_code, stream.mimetype) == (200, "application/x-ndjson")
    assert redis.hget(keys.job_key(job_id), "state") == b"queued"
    for path in ("/api/generate", "/v1/chat/completions"):
        assert ask("GET", f"{path}/{job_id}").status_code == 404
    stream.close()
    assert redis.hget(keys.job_key(job_id), "state") == b"cancelled"
    assert ask("GET", f"/api/chat/{job_id}").status_code == 409
