"""Responses that outlive Redis: everything that could be done with them within its hour can be done after it."""

import time
from types import SimpleNamespace

import openai
import pytest

from api.jobs.archive import changes
from api.jobs.archive.answers import UnknownTokens
from common.errors import JobFailed
from common.redis import keys
from common.wire import Failed


@pytest.fixture
def client(kept):
    return kept.openai()


@pytest.fixture
def ask(kept, client):
    """A response that has ended and was archived."""

    def send(input="2+2?", text="Four.", *, forgets=True, end=None, **fields):
        response = client.responses.create(model="tiny", input=input, background=True, **fields)
        kept.say(text, end=end)
        before = client.responses.retrieve(response.id)
        kept.keep()
        if forgets:
            kept.forget(response.id)
        return before

    return send


def test_a_response_is_the_same_after_redis_has_forgotten_it(ask, client):
    before = ask(metadata={"a": "b"})
    assert client.responses.retrieve(before.id) == before
    assert before.output_text == "Four."


def test_it_was_completed_at_one_time_in_its_stream_on_retrieval_and_from_the_archive(client, kept):
    response = client.responses.create(model="tiny", input="2+2?", background=True)
    began = int(time.time())
    kept.say()
    last = list(client.responses.retrieve(response.id, stream=True))[-1].response
    retrieved = client.responses.retrieve(response.id)
    kept.keep()
    kept.forget(response.id)
    assert began <= last.completed_at <= time.time() and response.completed_at is None
    assert last.completed_at == retrieved.completed_at == client.responses.retrieve(response.id).completed_at


def test_its_events_can_be_read_again_from_any_number(kept, client):
    response = client.responses.create(model="tiny", input="2+2?", background=True)
    kept.say()
    live = list(client.responses.retrieve(response.id, stream=True))
    kept.keep()
    kept.forget(response.id)
    assert list(client.responses.retrieve(response.id, stream=True)) == live
    assert list(client.responses.retrieve(response.id, stream=True, starting_after=4)) == live[5:]


def test_it_is_continued_and_its_items_are_listed_and_referred_to(ask, client):
    first = ask()
    second = ask("Sure?", previous_response_id=first.id)
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.content[0].text for item in items] == ["2+2?", "Four.", "Sure?"]
    third = ask([{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "And?"}])
    [referred, _] = client.responses.input_items.list(third.id, order="asc")
    assert referred.content[0].text == "Four."


def test_one_that_was_not_to_be_stored_is_not_archived(client, kept):
    with client.responses.create(model="tiny", input="Hi", store=False, stream=True):
        [job_key] = kept.redis.keys(f"{keys.JOB}*")
        assert kept.redis.hget(job_key, "archive") == b"0"


def test_another_key_sees_none_of_it(ask, kept):
    response = ask()
    other = kept.openai("sk-other")
    for call in (other.responses.retrieve, other.responses.delete, other.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            call(response.id)


def test_a_deleted_response_is_gone_from_redis_and_from_the_store(ask, client, kept):
    for forgets in (False, True):
        response = ask(forgets=forgets)
        client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response.id)
        assert not kept.redis.exists(keys.job_key(response.id))


@pytest.mark.parametrize("has_tombstone", [True, False])
def test_a_response_that_is_deleted_while_the_dispatcher_archives_it_does_not_come_back(
    client, kept, monkeypatch, has_tombstone
):
    if not has_tombstone:
        monkeypatch.setattr(changes, "remove_archived", lambda *_: None)
    response = client.responses.create(model="tiny", input="2+2?", background=True)
    kept.say()
    saved = [(key, kept.redis.dump(key)) for key in (keys.job_key(response.id), keys.log_key(response.id))]
    client.responses.delete(response.id)
    for key, value in saved:  # as the dispatcher had read them before
        kept.redis.restore(key, 0, value)
    kept.keep()
    kept.forget(response.id)
    if has_tombstone:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response.id)
    else:
        assert client.responses.retrieve(response.id).output_text == "Four."


def test_a_failed_response_is_archived_with_its_error(ask, client):
    before = ask(end=Failed(JobFailed.code, "It broke."))
    assert client.responses.retrieve(before.id) == before
    assert (before.status, before.error.message) == ("failed", "It broke.")


def test_it_is_read_after_redis_was_emptied_and_its_model_is_served_no_more(ask, client, kept):
    before = ask()
    kept.redis.flushall()
    assert client.responses.retrieve(before.id) == before
    assert UnknownTokens().token_bytes(7) == ("token_id:7", [])  # what its logprobs would show


def test_an_answer_lives_a_day_in_redis_until_it_is_archived_and_then_its_usual_hour(client, kept):
    stored = client.responses.create(model="tiny", input="2+2?", background=True)
    kept.say()
    assert 86300 < kept.redis.ttl(keys.job_key(stored.id)) <= 86400
    assert 86300 < kept.redis.ttl(keys.log_key(stored.id)) <= 86400
    kept.keep()
    hour = kept.settings.limits.result_ttl
    assert hour - 10 < kept.redis.ttl(keys.job_key(stored.id)) <= hour
    assert hour - 10 < kept.redis.ttl(keys.log_key(stored.id)) <= hour


def test_cancelling_one_that_was_archived_answers_with_it_at_once(ask, client, monkeypatch):
    monkeypatch.setattr(
        changes, "time", SimpleNamespace(sleep=lambda _: pytest.fail("it waits"), monotonic=time.monotonic)
    )
    before = ask()
    assert client.responses.cancel(before.id) == before
