"""Chat completions with `store: true`, as OpenAI's client lists, reads, changes and deletes them."""

import time
from types import SimpleNamespace

import openai
import pytest

from api.jobs.archive import changes
from common.errors import JobFailed
from common.redis import keys
from common.wire import Failed


@pytest.fixture
def client(kept):
    return kept.openai()


@pytest.fixture
def ask(kept, client):
    """The id of a stored completion that has ended and was archived."""

    def send(content="2+2?", text="Four.", *, end=None, keeps=True, **fields):
        sent = {"model": "tiny", "messages": [{"role": "user", "content": content}], "store": True} | fields
        chat = client.chat.completions.create(**sent, extra_body={"background": True})
        kept.say(text, end=end)
        if keeps:
            kept.keep()
        return chat.id

    return send


def ids(page):
    return [completion.id for completion in page]


def test_a_stored_completion_is_the_same_after_redis_has_forgotten_it(ask, client, kept):
    chat_id = ask(metadata={"a": "b"}, temperature=0.5, seed=7)
    before = client.chat.completions.retrieve(chat_id)
    kept.forget(chat_id)
    assert client.chat.completions.retrieve(chat_id) == before
    assert (before.choices[0].message.content, before.metadata) == ("Four.", {"a": "b"})
    assert (before.temperature, before.seed, before.tools, before.input_user) == (0.5, 7, None, None)


def test_the_list_is_in_order_of_creation_and_by_pages(ask, client):
    made = [ask(f"{number}?") for number in range(5)]
    assert ids(client.chat.completions.list()) == made
    assert ids(client.chat.completions.list(order="desc")) == made[::-1]
    page = client.chat.completions.list(limit=2)
    assert ids(page.data) == made[:2] and page.has_more
    assert ids(client.chat.completions.list(limit=2, after=made[3]).data) == made[4:]
    assert ids(client.chat.completions.list(limit=2)) == made  # the client asks for page after page


def test_the_list_is_filtered_by_model_and_by_metadata(ask, client, monkeypatch):
    monkeypatch.setattr("common.records.archive.PAGE_ROWS", 2)
    made = [ask(metadata={"n": str(number % 3), 'a "b"': "x"}) for number in range(7)]
    assert ids(client.chat.completions.list(metadata={"n": "1"}, limit=1)) == [made[1], made[4]]
    assert ids(client.chat.completions.list(metadata={"n": "0", 'a "b"': "x"}, order="desc")) == made[::-3]
    assert ids(client.chat.completions.list(metadata={"n": "3"})) == []
    assert ids(client.chat.completions.list(model="tiny")) == made
    assert ids(client.chat.completions.list(model="other")) == []


def test_only_finished_completions_that_were_to_be_stored_are_listed(ask, client):
    ask(store=False)
    ask(end=Failed(JobFailed.code, "It broke."))
    assert ids(client.chat.completions.list()) == []


def test_one_that_still_runs_is_not_stored_yet(client):
    question = [{"role": "user", "content": "2+2?"}]
    chat = client.chat.completions.create(model="tiny", messages=question, store=True, extra_body={"background": True})
    with pytest.raises(openai.NotFoundError, match="once it has ended"):
        client.chat.completions.messages.list(chat.id)


def test_metadata_is_changed_and_stays_changed(ask, client, kept):
    chat_id = ask(metadata={"a": "b"})
    changed = client.chat.completions.update(chat_id, metadata={"c": "d"})
    assert changed.metadata == {"c": "d"} and changed.choices[0].message.content == "Four."
    assert client.chat.completions.retrieve(chat_id).metadata == {"c": "d"}
    kept.redis.delete(keys.OUTBOX_LIFE)  # the outbox is applied again
    kept.keep()
    assert client.chat.completions.retrieve(chat_id).metadata == {"c": "d"}
    assert ids(client.chat.completions.list(metadata={"c": "d"})) == [chat_id]
    assert client.chat.completions.update(chat_id, metadata=None).metadata == {}


def test_the_messages_of_the_request_are_listed(client, kept):
    parts = [{"type": "text", "text": "2+2?"}]
    sent = [{"role": "system", "content": "Count."}, {"role": "user", "content": parts, "name": "Ada"}]
    chat = client.chat.completions.create(model="tiny", messages=sent, store=True, extra_body={"background": True})
    kept.say()
    kept.keep()
    first, second = client.chat.completions.messages.list(chat.id)
    assert (first.id, first.role, first.content, first.content_parts) == (f"{chat.id}-0", "system", "Count.", None)
    assert (second.id, second.name, second.content) == (f"{chat.id}-1", "Ada", None)
    assert second.content_parts[0].text == "2+2?"
    assert [found.id for found in client.chat.completions.messages.list(chat.id, order="desc", limit=1)] == [
        second.id,
        first.id,
    ]
    assert [found.id for found in client.chat.completions.messages.list(chat.id, after=first.id)] == [second.id]


@pytest.mark.parametrize("forgets", [True, False])
def test_a_deleted_completion_is_gone(ask, client, kept, forgets):
    chat_id = ask()
    if forgets:
        kept.forget(chat_id)
    deleted = client.chat.completions.delete(chat_id)
    assert (deleted.id, deleted.object, deleted.deleted) == (chat_id, "chat.completion.deleted", True)
    assert ids(client.chat.completions.list()) == []
    for call in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            call(chat_id)


def test_one_that_was_not_stored_is_read_for_an_hour_and_is_none_of_these(ask, client):
    chat_id = ask(store=False)
    assert client.chat.completions.retrieve(chat_id).choices[0].message.content == "Four."
    assert "metadata" not in client.chat.completions.retrieve(chat_id).to_dict()
    for call in (client.chat.completions.messages.list, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            call(chat_id)


def test_another_key_sees_none_of_it(ask, kept):
    chat_id, other = ask(), kept.openai("sk-other").chat.completions
    assert ids(other.list()) == []
    for call in (other.retrieve, other.delete, other.messages.list, lambda it: other.update(it, metadata={})):
        with pytest.raises(openai.NotFoundError):
            call(chat_id)
    with pytest.raises(openai.BadRequestError):
        other.list(after=chat_id)


def test_a_completion_that_has_just_ended_is_waited_for(ask, client, kept, monkeypatch):
    chat_id = ask(keeps=False)
    monkeypatch.setattr(
        "common.outbox.stream.time", SimpleNamespace(sleep=lambda _: kept.keep(), monotonic=time.monotonic)
    )
    assert ids(client.chat.completions.list()) == [chat_id]


def test_while_the_dispatcher_is_away_the_list_is_not_shown_without_it(ask, client, kept, monkeypatch):
    monkeypatch.setattr(changes, "WAIT_S", 0.05)
    ask(keeps=False)
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.list()
    assert refused.value.status_code == 503


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "order=up", "after=x", "after=%00", "model=%00"])
def test_a_query_that_is_not_valid_is_refused(query, kept):
    answer = kept.app.test_client().get(f"/v1/chat/completions?{query}", headers={"Authorization": "Bearer sk-local"})
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, query.partition("=")[0])
