"""Cancelling a stored response: its state only moves forward."""

import threading

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.jobs.archive import changes
from api.prompt.encoder import PromptEncoder
from common.errors import JobCancelled
from common.redis import keys
from common.settings import read_settings
from common.wire import Failed
from common.wire_codec import encode_card, encode_event
from tests.api.events import log

KEY = {"Authorization": "Bearer sk-local"}


@pytest.fixture
def client(redis: "Redis", valkey_url: str, encoder: PromptEncoder) -> FlaskClient:
    redis.hset(keys.QUEUES, "tiny", "tiny")
    redis.hset(keys.CARD_VERSIONS, "tiny", encoder.card.revision)
    redis.set(keys.card_key("tiny"), encode_card(encoder.card))
    return create_app(read_settings({"REDIS_URL": valkey_url, "OMNI_MODEL_NAME": "tiny"})).test_client()


@pytest.fixture
def running(client: FlaskClient, redis: "Redis") -> str:
    """A response that a worker computes."""
    body = {"model": "tiny", "input": "Hi", "background": True}
    response_id: str = client.post("/v1/responses", json=body, headers=KEY).get_json()["id"]
    redis.hset(keys.job_key(response_id), "state", "running")
    return response_id


def seen(client: FlaskClient, response_id: str) -> dict:
    return client.get(f"/v1/responses/{response_id}", headers=KEY).get_json()


def cancelled(client: FlaskClient, response_id: str) -> dict:
    return client.post(f"/v1/responses/{response_id}/cancel", headers=KEY).get_json()


def test_a_response_stays_cancelled_while_its_worker_has_not_ended_it(client, running, monkeypatch):
    monkeypatch.setattr(changes, "END_TRIES", 0)
    assert seen(client, running)["status"] == "in_progress"
    assert cancelled(client, running)["status"] == "cancelled"
    assert seen(client, running)["status"] == "cancelled"


def test_a_deadline_that_has_passed_does_not_show_as_cancelled(client, running, redis):
    redis.hset(keys.job_key(running), "cancel", '{"code":"timeout","message":"late"}')
    assert seen(client, running)["status"] == "in_progress"


def test_cancel_answers_with_the_text_so_far(client, running, redis):
    def end() -> None:
        events = [*log("Fo")[:-1], Failed(JobCancelled.code, "The job was cancelled.")]
        for number, event in enumerate(events, 1):
            redis.xadd(keys.log_key(running), {"e": encode_event(event)}, id=f"{number}-0")
        redis.hset(keys.job_key(running), "state", "cancelled")

    worker = threading.Timer(0.05, end)
    worker.start()
    answer = cancelled(client, running)
    worker.join()
    assert answer["status"] == "cancelled" and answer["output"][0]["content"][0]["text"] == "Fo"
    assert answer == seen(client, running)
