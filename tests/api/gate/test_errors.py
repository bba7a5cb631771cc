"""Status, body and headers of each failure; two bodies exactly as in the reference."""

import json

import pytest

from api.app import create_app
from api.gate.errors import error_answer, messages_error
from api.prompt.models import Models
from common.errors import (
    InvalidRequest,
    JobFailed,
    ModelNotFound,
    ModelNotReady,
    OmniError,
    OutOfMemory,
    Overloaded,
    StreamRewound,
    Unauthenticated,
)
from common.redis.store import Store
from common.settings import read_settings
from worker.jobs.ledger import Ledger

CHAT = "/v1/chat/completions"


def test_a_loading_model_answers_as_in_the_reference() -> None:
    body, status, headers = error_answer(ModelNotReady("Model not ready"), CHAT)
    assert status == 503 and headers["Retry-After"]
    expected = {"message": "Model not ready", "type": "service_unavailable", "code": 503}
    assert body["error"] == expected | {"param": None}


def test_an_exhausted_gpu_answers_as_in_the_reference_and_is_not_retried() -> None:
    body, status, headers = error_answer(JobFailed("CUDA out of memory", code="out_of_memory"), CHAT)
    assert status == 500 and headers["x-should-retry"] == "false"
    assert body["error"] == {"message": "CUDA out of memory", "type": "internal_error", "code": 500, "param": None}


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (Unauthenticated("x"), 401, "invalid_request_error", "invalid_api_key"),
        (Overloaded("x", retry_after_s=3), 429, "rate_limit_error", "rate_limit_exceeded"),
        (JobFailed("x", code="worker_crashed"), 500, "internal_error", "worker_crashed"),
        (JobFailed("x", code="something_new"), 500, "internal_error", "something_new"),
        (StreamRewound("x"), 409, "invalid_request_error", "stream_rewound"),
        (JobFailed("x", code="timeout"), 504, "timeout_error", "timeout"),
    ],
)
def test_each_failure_has_its_status(error: OmniError, status: int, kind: str, code: str) -> None:
    body, got, _ = error_answer(error, CHAT)
    assert (got, body["error"]["type"], body["error"]["code"]) == (status, kind, code)


def test_a_loading_model_reports_its_progress(redis) -> None:
    store = Store(redis, max_queue=1, ttl_s=1)
    models = Models(store, {"m": "m"})
    with pytest.raises(ModelNotReady, match="^Model not ready$"):
        models.encoder("m")
    Ledger(redis, "m", worker_name="w").report_loading("weights, 120 of 291", 0.4)
    with pytest.raises(ModelNotReady, match=r"^Model not ready: weights, 120 of 291 \(40%\)$"):
        models.encoder("m")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x"), "invalid_request_error"),
        (ModelNotFound("x"), "not_found_error"),
        (Overloaded("x"), "rate_limit_error"),
        (OutOfMemory("x"), "api_error"),
    ],
)
def test_errors_have_anthropic_s_format(error, kind):
    assert messages_error(error) == {"type": "error", "error": {"type": kind, "message": "x"}}


@pytest.fixture(scope="module")
def client():
    return create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock"})).test_client()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages", 405),
        ("DELETE", "/v1/messages/", 405),
        ("PUT", "/v1/messages/count_tokens", 405),
        ("POST", "/v1/messages/x/y", 404),
        ("POST", "/v1/messages", 401),
    ],
)
def test_every_error_below_messages_has_anthropic_s_format(method, path, status, client):
    answer = client.open(path, method=method)
    body = answer.get_json()
    assert answer.status_code == status
    assert body["type"] == "error" and set(body) == {"type", "error", "request_id"}
    assert body["request_id"] == answer.headers["Request-Id"] == answer.headers["X-Request-Id"]
    assert "code" in client.open("/v1/messagesx", method=method).get_json()["error"]
    other = client.open("/v1/nothing", method=method, headers={"anthropic-version": "2023-06-01"})
    assert other.get_json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("POST", "/chat/completions", "but POST /v1/chat/completions: the base URL ends in one /v1"),
        ("POST", "/v1/v1/chat/completions", "but POST /v1/chat/completions: the base URL ends in one /v1"),
        ("POST", "/v1/moderations", "on this server; GET /docs"),
        ("POST", "/v1/responses/compact", "on this server; this path has DELETE and GET"),
        ("GET", "/static/none.js", "on this server; GET /docs"),
    ],
)
def test_a_route_that_there_is_not_says_what_there_is(method, path, hint, client):
    message = client.open(path, method=method).get_json()["error"]["message"]
    assert message.startswith((f"There is no {method} {path} ", f"There is no {method} {path}, "))
    assert hint in message


def test_a_missing_key_is_told_from_a_wrong_one(client):
    assert "No API key was sent" in client.get("/v1/models").get_json()["error"]["message"]


@pytest.mark.parametrize(
    ("family", "path", "message_of"),
    [
        ("openai", "/v1/chat/completions", lambda body: body["error"]["message"]),
        ("anthropic", "/v1/messages", lambda body: body["error"]["message"]),
        ("ollama", "/api/chat", lambda body: body["error"]),
    ],
)
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 503),  # Redis is away
        ({"headers": {"Authorization": "Bearer no"}}, 401),
        ({"data": b"{"}, 400),
        ({"data": b"[]"}, 400),
        ({"data": b"{}".ljust(8 * 2**20 + 1)}, 413),
        ({"headers": {"Authorization": "Bearer sk-local", "Content-Encoding": "br"}}, 415),
        ({"method": "PATCH"}, 405),
    ],
)
def test_each_family_of_routes_has_its_own_form_for_every_error(family, path, message_of, change, status, client):
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    sent = {"method": "POST", "headers": {"Authorization": "Bearer sk-local"}, "data": json.dumps(body)}
    answer = client.open(path, content_type="application/json", **sent | change)
    assert (answer.status_code, answer.mimetype) == (status, "application/json")
    found = answer.get_json()
    assert message_of(found)
    assert set(found) == ({"type", "error", "request_id"} if family == "anthropic" else {"error"})


def test_an_unexpected_failure_has_its_family_s_form_too(monkeypatch, client):
    monkeypatch.setattr("api.gate.auth.KeyRing.caller", None)
    monkeypatch.setitem(client.application.config, "PROPAGATE_EXCEPTIONS", False)
    assert client.post("/v1/messages").get_json()["error"]["type"] == "api_error"
    assert client.post("/v1/chat/completions").get_json()["error"]["code"] == "internal_error"


@pytest.mark.parametrize("headers", [{"api-key": "sk-local"}, {"x-api-key": "sk-local"}])
@pytest.mark.parametrize("bearer", [None, "", "Bearer", "Bearer "])
def test_a_key_may_come_in_any_of_the_three_headers(headers, bearer, client):
    sent = headers if bearer is None else headers | {"Authorization": bearer}
    for path in ("/v1/chat/completions", "/v1/messages", "/tokenize"):
        assert client.post(path, json={}, headers=sent).status_code == 400
        assert client.post(path, json={}, headers=sent | dict.fromkeys(headers, "no")).status_code == 401


@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs", "/v1/chat/completions", "/v1/messages", "/livez", "/board"])
def test_a_slash_too_many_leads_to_the_same_route(path, client):
    def status(sent):
        headers = {"Authorization": "Bearer sk-local"}
        return client.get(path, headers=headers, environ_overrides={"PATH_INFO": sent}).status_code

    for other in (f"{path}/", f"/{path}", f"{path}//", path.replace("/v1", "/v1/")):
        assert status(other) == status(path) != 404
