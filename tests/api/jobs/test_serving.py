"""Serving of answers: headers, ids, and no subscription left open after any end of a request."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.jobs.hub import EventHub
from api.jobs.serving import fetched_delivery, sender_of
from api.prompt.encoder import PromptEncoder
from api.responses.chunks import RESPONSE
from common.redis import keys
from common.settings import read_settings
from common.wire_codec import encode_card

KEY = {"Authorization": "Bearer sk-local"}
TALK = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
ASKED = [
    ("/v1/chat/completions", TALK),
    ("/v1/completions", {"model": "tiny", "prompt": ["a", "b"]}),
    ("/v1/responses", {"model": "tiny", "input": "Hi"}),
]
WIDE = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 2**64}}}


@pytest.fixture
def client(redis: "Redis", valkey_url: str, encoder: PromptEncoder) -> FlaskClient:
    redis.hset(keys.QUEUES, "tiny", "tiny")
    redis.hset(keys.CARD_VERSIONS, "tiny", encoder.card.revision)
    redis.set(keys.card_key("tiny"), encode_card(encoder.card))
    values = {"OMNI_API_KEYS": "sk-local,sk-other", "OMNI_ADMIN_KEYS": "sk-admin", "OMNI_MODEL_NAME": "tiny"}
    return create_app(read_settings({"REDIS_URL": valkey_url} | values)).test_client()


@pytest.fixture
def hub(client: FlaskClient) -> EventHub:
    hub: EventHub = client.application.extensions["omni"].hub
    return hub


@pytest.fixture
def post(client: FlaskClient) -> Callable[..., Any]:
    def send(path: str, body: dict[str, Any], **headers: str) -> Any:
        return client.post(path, json=body | {"background": True}, headers=KEY | headers)

    return send


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_head_request_for_a_stream_returns_at_once(path, body, post, client, hub) -> None:
    answer_id = post(path, body).get_json()["id"]
    head = client.head(f"{path}/{answer_id}?stream=true", headers=KEY)
    assert (head.status_code, head.headers["Omni-Job-Id"]) == (200, answer_id)
    assert head.mimetype == "text/event-stream"
    assert not hub._subscriptions


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_every_answer_has_its_job_s_id_in_a_header(path, body, post, client) -> None:
    answer = post(path, body)
    answer_id = answer.get_json()["id"]
    again = client.get(f"{path}/{answer_id}", headers=KEY)
    assert answer.headers["Omni-Job-Id"] == again.headers["Omni-Job-Id"] == answer_id
    assert again.status_code == answer.status_code


@pytest.mark.parametrize("query", ["", "?stream=true"])
def test_a_form_that_this_version_cannot_read_leaves_no_subscription(query, post, client, hub, redis: "Redis") -> None:
    answer_id = post("/v1/chat/completions", TALK).get_json()["id"]
    form = orjson.loads(redis.hget(keys.job_key(answer_id), "form"))
    form["reading"]["tool_format"] = "of a newer version"
    redis.hset(keys.job_key(answer_id), mapping={"form": orjson.dumps(form), "state": "finished"})
    assert client.get(f"/v1/chat/completions/{answer_id}{query}", headers=KEY).status_code == 500
    assert not hub._subscriptions


@pytest.mark.parametrize(("query", "num_received"), [("starting_after=2", 3), ("starting_after=", 3), ("", 3)])
def test_numbered_events_are_counted_from_a_number_or_from_a_header(query: str, num_received: int) -> None:
    found: Any = SimpleNamespace(endpoint=RESPONSE)
    with Flask("test").test_request_context(f"/?stream=true&{query}", headers={"Last-Event-ID": "3"}):
        assert fetched_delivery(request, found).after == num_received


def test_an_idempotency_key_of_another_endpoint_is_a_mismatch(post, hub) -> None:
    first = post("/v1/chat/completions", TALK, **{"Idempotency-Key": "k"})
    again = post("/v1/chat/completions", TALK, **{"Idempotency-Key": "k"})
    assert first.get_json()["id"] == again.get_json()["id"]
    assert post("/v1/responses", ASKED[2][1], **{"Idempotency-Key": "k"}).status_code == 422
    assert not hub._subscriptions


def test_integers_of_more_than_64_bits_are_accepted_where_they_are_stored(post) -> None:
    body = {"model": "tiny", "input": "Hi", "tools": [{"type": "function", "name": "f", "parameters": WIDE}]}
    answers = [post("/v1/responses", body, **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].get_json()["tools"][0]["parameters"] == WIDE
    assert answers[0].get_json()["id"] == answers[1].get_json()["id"]


def test_the_id_of_another_endpoint_s_answer_is_not_found(post, client) -> None:
    answer_id = post("/v1/completions", ASKED[1][1]).get_json()["id"]
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
        refused = client.get(f"{path}/{answer_id}", headers=KEY)
        assert refused.status_code == 404 and "This id is not" in refused.get_json()["error"]["message"]


def test_the_job_of_a_further_prompt_is_not_an_answer(post, client) -> None:
    answer_id = post("/v1/completions", ASKED[1][1]).get_json()["id"]
    assert client.get(f"/v1/completions/{answer_id}-1", headers=KEY).status_code == 404


def test_an_answer_of_several_prompts_is_cancelled_as_a_whole_and_each_of_its_further_jobs_alone(post, client) -> None:
    def states() -> list[str]:
        return [client.get(f"/v1/jobs/{job_id}", headers=KEY).get_json()["state"] for job_id in (answer_id, further)]

    answer_id = post("/v1/completions", ASKED[1][1]).get_json()["id"]
    further = f"{answer_id}-1"
    assert client.delete(f"/v1/jobs/{further}", headers=KEY).get_json()["deleted"] is True
    assert states() == ["queued", "cancelled"]
    answer_id = post("/v1/completions", ASKED[1][1]).get_json()["id"]
    further = f"{answer_id}-1"
    gone = client.delete(f"/v1/jobs/{answer_id}", headers=KEY).get_json()
    assert (gone["id"], gone["deleted"], gone["state_before"]) == (answer_id, True, "queued")
    assert states() == ["cancelled", "cancelled"]
    assert client.delete(f"/v1/jobs/{answer_id}", headers=KEY).get_json()["deleted"] is False


def test_a_job_is_seen_by_its_key_and_by_admins(client, post) -> None:
    answer_id = post("/v1/completions", ASKED[1][1]).get_json()["id"]
    seen = [
        client.get(f"/v1/jobs/{answer_id}", headers={"Authorization": f"Bearer {key}"}).status_code
        for key in ("sk-local", "sk-admin", "sk-other")
    ]
    assert seen == [200, 200, 404]


@pytest.mark.parametrize("key", ["sk-local", "sk-admin"])
def test_a_job_that_is_not_there_cannot_be_cancelled(client, key) -> None:
    refused = client.delete("/v1/jobs/chatcmpl-unknown", headers={"Authorization": f"Bearer {key}"})
    assert refused.status_code == 404 and "no job 'chatcmpl-unknown'" in refused.get_json()["error"]["message"]


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_new_answer_has_the_headers_of_its_key_s_limits(path, body, post) -> None:
    assert post(path, body).headers["x-ratelimit-limit-requests"] == "1000"


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_stream_is_resumed_after_a_whole_number_only(path, body, post, client, hub) -> None:
    answer_id = post(path, body).get_json()["id"]
    refused = client.get(f"{path}/{answer_id}?stream=true&starting_after=x", headers=KEY)
    assert refused.status_code == 400 and refused.get_json()["error"]["param"] == "starting_after"
    assert not hub._subscriptions


@pytest.mark.parametrize(("path", "body"), ASKED[:2])
@pytest.mark.parametrize("query", ["", "?stream=true&starting_after=99"])
def test_the_error_of_a_job_has_its_id_in_a_header(path, body, query, client, post) -> None:
    answer_id = post(path, body).get_json()["id"]
    for job in client.get("/v1/jobs", headers=KEY).get_json()["data"]:
        client.delete(f"/v1/jobs/{job['id']}", headers=KEY)
    failed = client.get(f"{path}/{answer_id}{query}", headers=KEY)
    assert (failed.status_code, failed.headers.get("Omni-Job-Id")) == (409, answer_id)


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_stream_is_asked_for_with_true_or_false(path, body, post, client) -> None:
    answer_id = post(path, body).get_json()["id"]
    refused = client.get(f"{path}/{answer_id}?stream=maybe", headers=KEY)
    assert refused.status_code == 400 and refused.get_json()["error"]["param"] == "stream"
    assert client.get(f"{path}/{answer_id}?stream=false", headers=KEY).mimetype == "application/json"


@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "x-stainless-timeout"])
def test_the_timeout_that_python_s_or_node_s_client_announces_is_the_job_s(header):
    http = SimpleNamespace(headers={header: "5"})
    call = SimpleNamespace(http=http, caller=SimpleNamespace(owner="me", batch=""), raw={}, tier="default")
    assert sender_of(call).read_timeout == "5"
