"""Status, body and headers of each failure; two bodies exactly as in the reference."""

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
        (StreamRewound("x"), 409, "internal_error", "stream_rewound"),
        (JobFailed("x", code="timeout"), 504, "timeout_error", "timeout"),
    ],
)
def test_each_failure_has_its_status(error: OmniError, status: int, kind: str, code: str) -> None:
    body, got, _ = error_answer(error, CHAT)
    assert (got, body["error"]["type"], body["error"]["code"]) == (status, kind, code)


def test_a_loading_model_reports_its_progress(redis) -> None:
    store = Store(redis, max_queue=1, ttl_s=1)
    models = Models(store, ("m",))
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


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages", 405),
        ("DELETE", "/v1/messages", 405),
        ("PUT", "/v1/messages/count_tokens", 405),
        ("POST", "/v1/messages/x/y", 404),
        ("POST", "/v1/messages", 401),
    ],
)
def test_every_error_below_messages_has_anthropic_s_format(method, path, status):
    client = create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock"})).test_client()
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert answer.get_json()["type"] == "error"
    assert "code" in client.open("/v1/messagesx", method=method).get_json()["error"]
