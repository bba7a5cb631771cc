"""Requests for later and windows, on the whole service with the demo model."""

import time

import pytest
from openai import BadRequestError, OpenAI

from tests.service import RunningService

ASK = {"model": "omni-demo", "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 5}
WAIT = {"status", "position", "eta_s", "scheduled_for", "deadline", "service_tier"}
PATHS = {
    "/v1/chat/completions": ASK,
    "/v1/completions": {"model": "omni-demo", "prompt": "Once", "max_tokens": 5},
    "/v1/responses": {"model": "omni-demo", "input": "Tell me a story.", "max_output_tokens": 5},
}


@pytest.fixture(scope="module")
def client(service: RunningService) -> OpenAI:
    return service.openai()


def test_a_stream_stays_open_until_its_time_and_says_so(service: RunningService) -> None:
    then = time.time() + 2
    with (
        service.http() as http,
        http.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True, "not_before": then}) as answer,
    ):
        assert "Omni-Queue-Position" not in answer.headers
        assert 1 <= float(answer.headers["Omni-Queue-ETA"]) < 10
        text = "".join(answer.iter_text())
    assert text.count(": scheduled at=20") == 1 and text.rstrip().endswith("data: [DONE]")
    assert then <= time.time() < then + 10


def test_a_request_that_is_enqueued_is_told_its_place(service: RunningService) -> None:
    with service.http() as http:
        answer = http.post("/v1/chat/completions", json=ASK)
    assert answer.headers["Omni-Queue-Position"] == "1" and float(answer.headers.get("Omni-Queue-ETA", 0)) >= 0


@pytest.mark.parametrize("path", PATHS)
def test_a_request_for_later_waits_and_can_be_cancelled(service: RunningService, path: str) -> None:
    later = PATHS[path] | {"background": True, "not_before": "2099-01-01T00:00:00Z"}
    with service.http() as http:
        assert "30 days" in http.post(path, json=later).json()["error"]["message"]
        then = round(time.time()) + 3600
        begun = http.post(path, json=later | {"not_before": then, "timeout": 60}).json()
        assert (begun["status"], begun["scheduled_for"], begun["deadline"]) == ("queued", then, then + 60)
        assert begun["position"] is None and 3500 < begun["eta_s"] < 3700
        assert http.get(f"{path}/{begun['id']}").json()["scheduled_for"] == then
        assert http.get(f"/v1/jobs/{begun['id']}").json()["state"] == "queued"
        cancelled = http.post(f"{path}/{begun['id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert http.get(f"/v1/jobs/{begun['id']}").json()["state"] == "cancelled"


@pytest.mark.parametrize("path", PATHS)
def test_a_window_is_flex_with_a_deadline(service: RunningService, path: str) -> None:
    with service.http() as http:
        body = PATHS[path] | {"background": True, "background_options": {"completion_window": "2h"}}
        begun = http.post(path, json=body).json()
        job = http.get(f"/v1/jobs/{begun['id']}").json()
        assert (job["service_tier"], begun["service_tier"]) == ("flex", "flex")
        assert 7100 < begun["deadline"] - time.time() < 7300 and WAIT <= set(begun)
        for tier in ("auto", "default", "flex"):
            assert http.post(path, json=body | {"service_tier": tier}).json()["service_tier"] == "flex"
        assert http.get(f"{path}/{begun['id']}", params={"stream": "true"}).status_code == 200, "it ends"
        done = http.post(f"{path}/{begun['id']}/cancel").json()
        assert done["usage"], "what has ended is answered with the whole body"
        refused = http.post(path, json=body | {"service_tier": "priority"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "service_tier")


def test_messages_refuse_background_by_name(service: RunningService) -> None:
    with service.http() as http:
        refused = http.post("/v1/messages", json=ASK | {"background": True, "not_before": time.time() + 60})
    assert refused.status_code == 400 and "'background'" in refused.json()["error"]["message"]


def test_options_for_background_need_background(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model="omni-demo", input="x", background_options={"completion_window": "2h"})
    assert refused.value.param == "background_options"
