"""Managed API keys: stored as hashes, limited, named, revoked without a restart."""

import time
from typing import Any

import httpx2
import openai
import pytest
from flask import Request
from redis.client import Pipeline
from werkzeug.test import EnvironBuilder

from api.gate.auth import Caller, KeyRing
from api.gate.rate_headers import duration, rate_headers
from common.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated
from common.quota import Quota
from common.redis.dispatch.internal import made_secret
from common.redis.key_store import PREFIX, KeyLimits, KeyStore
from common.redis.keys import digest_of, owner_of
from common.settings import read_settings
from common.wire import TIERS
from tests.service import RunningService

HELLO = [{"role": "user", "content": "Hello!"}]
STORY = {"model": "omni-demo", "messages": [{"role": "user", "content": "Tell me a story."}], "background": True}


@pytest.fixture
def keys(redis):
    return KeyStore(redis)


def eventually(probe, timeout_s=4.0):
    deadline = time.monotonic() + timeout_s
    while not probe():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_key_is_random_shown_once_and_stored_as_a_hash_alone(keys, redis):
    key = keys.add("alice", KeyLimits())
    assert key.startswith(PREFIX) and len(key) == len(PREFIX) + 43 and key != keys.add("bob", KeyLimits())
    [alice, _] = keys.all()
    assert (alice.name, alice.digest) == ("alice", digest_of(key))
    for name in redis.scan_iter("*"):
        kind = redis.type(name)
        stored = redis.hgetall(name) if kind == b"hash" else redis.get(name)
        assert key.encode() not in name and key.encode() not in repr(stored).encode()


def test_a_key_that_is_refused_takes_no_name_and_leaves_no_record(keys, redis):
    with pytest.raises(InvalidRequest, match="weight"):
        keys.add("bob", KeyLimits(weight=0.0))
    keys.add("bob", KeyLimits())
    with pytest.raises(Conflict):
        keys.add("bob", KeyLimits())
    assert [record.name for record in keys.all()] == ["bob"] and len(redis.keys("omni:key:*")) == 1


def test_a_key_whose_record_could_not_be_written_takes_no_name(keys, monkeypatch):
    def die(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as broken, pytest.raises(ConnectionError):
        broken.setattr(Pipeline, "execute", die)
        keys.add("bob", KeyLimits())
    keys.add("bob", KeyLimits())


def test_names_are_unique_limits_are_checked_and_an_unknown_name_is_reported(keys):
    keys.add("alice", KeyLimits())
    with pytest.raises(Conflict):
        keys.add("alice", KeyLimits())
    wrong_tiers: list[dict[str, Any]] = [{"tiers": ""}, {"tiers": "default,fast"}, {"tiers": "flex,flex"}]
    for bad in ({"weight": 0.0}, {"max_queued": -1}, {"priority": 101}, *wrong_tiers):
        with pytest.raises(InvalidRequest) as refused:
            keys.set_limits("alice", KeyLimits(**bad))
        assert refused.value.param in bad
    with pytest.raises(InvalidRequest):
        keys.add("bad\nname", KeyLimits())
    with pytest.raises(NotFound):
        keys.revoke("nobody")


def test_a_key_works_at_once_and_stops_within_a_second(service: RunningService):
    keys = KeyStore(service.redis())
    key = keys.add("passing", KeyLimits())

    def status():
        return httpx2.get(f"{service.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

    assert status() == 200
    assert httpx2.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 403
    keys.revoke("passing")
    eventually(lambda: status() == 401)


def test_a_limit_answers_429_with_its_name_and_the_headers_that_openai_sends(service: RunningService):
    keys = KeyStore(service.redis())
    key = keys.add("limited", KeyLimits(max_in_flight=1, tokens_per_minute=50_000))
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0)
    headers = {"Authorization": f"Bearer {key}"}
    eventually(lambda: httpx2.get(f"{service.url}/v1/models", headers=headers).status_code == 200)
    try:
        with httpx2.Client(base_url=service.url, headers=headers) as http:
            first = http.post("/v1/chat/completions", json=STORY | {"max_tokens": 2000, "ignore_eos": True})
            assert first.status_code == 202 and first.headers["x-ratelimit-limit-requests"] == "1"
            assert first.headers["x-ratelimit-remaining-requests"] == "0"
            assert first.headers["x-ratelimit-limit-tokens"] == "50000"
            assert int(first.headers["x-ratelimit-remaining-tokens"]) < 49_000
            assert first.headers["x-ratelimit-reset-tokens"].endswith("s")
            with pytest.raises(openai.RateLimitError, match="max_in_flight") as refused:
                client.chat.completions.create(model="omni-demo", messages=HELLO, max_tokens=2)
            assert refused.value.code == "rate_limit_exceeded" and refused.value.param == "max_in_flight"
            assert int(refused.value.response.headers["Retry-After"]) >= 1
            assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
            assert http.delete(f"/v1/jobs/{first.json()['id']}").status_code == 200
            eventually(lambda: keys.usage(keys.all()[0].owner) == (0, 0))
            answer = client.chat.completions.with_raw_response.create(model="omni-demo", messages=HELLO, max_tokens=2)
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) > 49_000  # unused tokens were refunded
    finally:
        keys.revoke("limited")


def test_a_priority_needs_the_right_to_it(service: RunningService):
    client = service.openai()
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="omni-demo", messages=HELLO, extra_body={"priority": -1})
    assert refused.value.param == "priority"
    answer = client.chat.completions.create(model="omni-demo", messages=HELLO, max_tokens=2, extra_body={"priority": 3})
    assert answer.choices


def test_a_key_from_before_there_were_tiers_may_use_default_and_flex(keys, redis):
    keys.add("old", KeyLimits())
    [record] = keys.all()
    redis.hdel(f"omni:key:{record.owner}", "tiers")
    assert keys.all()[0].limits.allowed_tiers == ("default", "flex")


def test_a_tier_is_used_shown_counted_and_refused_to_a_key_without_it(service: RunningService):
    client, admin = service.openai(), {"Authorization": f"Bearer {service.key}"}
    chat = client.chat.completions
    answer = chat.create(model="omni-demo", messages=HELLO, max_tokens=2, service_tier="flex")
    assert answer.service_tier == "flex"
    assert chat.create(model="omni-demo", messages=HELLO, max_tokens=2).service_tier is None
    chunks = chat.create(model="omni-demo", messages=HELLO, max_tokens=2, service_tier="auto", stream=True)
    assert {chunk.service_tier for chunk in chunks} == {"default"}
    assert client.responses.create(model="omni-demo", input="Hi", service_tier="flex").service_tier == "flex"
    job = httpx2.get(f"{service.url}/v1/jobs/{answer.id}", headers=admin).json()
    assert job["service_tier"] == "flex"
    metrics = httpx2.get(f"{service.url}/metrics", headers=admin).text
    assert "num_requests_waiting_by_tier{" in metrics and 'tier="flex"' in metrics
    keys = KeyStore(service.redis())
    low = openai.OpenAI(base_url=f"{service.url}/v1", api_key=keys.add("low", KeyLimits(tiers="flex")), max_retries=0)
    high = openai.OpenAI(base_url=f"{service.url}/v1", api_key=keys.add("high", KeyLimits(tiers="default,priority")))
    try:
        assert low.chat.completions.create(model="omni-demo", messages=HELLO, max_tokens=2).service_tier == "flex"
        with pytest.raises(openai.BadRequestError, match="may use flex") as refused:
            low.chat.completions.create(model="omni-demo", messages=HELLO, service_tier="priority")
        assert refused.value.param == "service_tier"
        first = high.chat.completions.create(model="omni-demo", messages=HELLO, max_tokens=2, service_tier="priority")
        assert first.service_tier == "priority"
    finally:
        keys.revoke("low")
        keys.revoke("high")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.12, "120ms"), (1, "1s"), (59.6, "1m0s"), (360, "6m0s"), (0.0001, "1ms")]
)
def test_durations_are_written_as_openai_writes_them(seconds, text):
    assert duration(seconds) == text


def test_a_key_without_a_limit_gets_the_queues_limit():
    headers = rate_headers(Quota(3, 0, 0, 0), num_waiting=10, max_queue=1000, place_s=0.5)
    assert headers["x-ratelimit-limit-requests"] == "1000" and headers["x-ratelimit-remaining-requests"] == "990"
    assert not any("tokens" in name for name in headers)


def test_a_key_with_a_daily_limit_sees_what_is_left_of_the_day():
    quota = Quota(1, 0, 0, 0, left_today=-5, tokens_per_day=100, day_left_s=3605.2)
    headers = rate_headers(quota, num_waiting=1, max_queue=1000, place_s=0.5)
    assert {name: value for name, value in headers.items() if name.endswith("-day")} == {
        "x-ratelimit-limit-tokens-day": "100",
        "x-ratelimit-remaining-tokens-day": "0",
        "x-ratelimit-reset-tokens-day": "60m5s",
    }


ALICE = "0123456789abcdef0123456789abcdef"


def asked_by_dispatcher(key: str, **headers: str) -> Request:
    environ = EnvironBuilder(headers={"Authorization": f"Bearer {key}", **headers}).get_environ()
    return Request(environ)


@pytest.fixture
def ring(redis):
    return KeyRing(read_settings({}), KeyStore(redis))


def test_the_dispatcher_acts_for_an_owner_with_the_secret_of_redis(redis, ring):
    secret = made_secret(redis)
    assert made_secret(redis) == secret and len(secret) >= 43
    request = asked_by_dispatcher(secret, **{"Omni-Act-As": ALICE, "Omni-Batch": "batch_1"})
    assert ring.caller(request) == Caller(ALICE, is_admin=False, batch="batch_1")
    with pytest.raises(Forbidden):
        ring.admin(request)


def test_a_key_of_the_environment_may_hold_bytes_that_are_no_utf_8(redis):
    KeyRing(read_settings({"OMNI_API_KEYS": "sk-\udcff"}), KeyStore(redis))


def test_without_the_secret_the_dispatcher_s_headers_mean_nothing(redis, ring):
    headers = {"Omni-Act-As": ALICE, "Omni-Batch": "batch_1"}
    assert ring.caller(asked_by_dispatcher("sk-local", **headers)) == Caller(
        owner_of("sk-local"), is_admin=True, tiers=TIERS
    )
    secret = made_secret(redis)
    assert ring.caller(asked_by_dispatcher("sk-local", **headers)).owner == owner_of("sk-local")
    for key, owner in (("", ALICE), ("wrong", ALICE), (secret, ""), (secret, "../x"), (secret, ALICE.upper())):
        with pytest.raises(Unauthenticated):
            ring.caller(asked_by_dispatcher(key, **{"Omni-Act-As": owner}))


def test_a_secret_that_was_made_anew_counts_at_once_and_the_old_one_no_more(redis, ring, monkeypatch):
    monkeypatch.setattr("api.gate.auth.NEW_KEY_S", 0.0)
    old = made_secret(redis)
    ring.caller(asked_by_dispatcher(old, **{"Omni-Act-As": ALICE}))
    redis.flushall()
    new = made_secret(redis)
    assert ring.caller(asked_by_dispatcher(new, **{"Omni-Act-As": ALICE})).owner == ALICE
    with pytest.raises(Unauthenticated):
        ring.caller(asked_by_dispatcher(old, **{"Omni-Act-As": ALICE}))
