"""Conversations, as OpenAI's client makes, reads and changes them, and responses that belong to one."""

import openai
import pytest

from api.responses import conversations
from api.responses.conversation_routes import shown_item
from common.errors import JobFailed
from common.redis import keys
from common.wire import Failed


@pytest.fixture
def client(kept):
    return kept.openai()


@pytest.fixture
def ask(kept, client):
    """A response of this conversation that has ended."""

    def send(conversation, input="2+2?", text="Four.", *, keeps=True, end=None, **fields):
        sent = {"model": "tiny", "input": input, "background": True} | fields
        response = client.responses.create(conversation=conversation, **sent)
        kept.say(text, end=end)
        if keeps:
            kept.keep()
        return response

    return send


def user(text):
    return {"type": "message", "role": "user", "content": text}


def texts(client, conversation, **query):
    found = client.conversations.items.list(conversation.id, **{"order": "asc"} | query)
    return [item.content[0].text for item in found]


def test_a_conversation_is_made_read_changed_and_deleted(client):
    made = client.conversations.create(metadata={"a": "b"})
    assert made.id.startswith("conv_") and made.object == "conversation" and made.metadata == {"a": "b"}
    assert client.conversations.retrieve(made.id) == made
    assert client.conversations.update(made.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.conversations.retrieve(made.id).metadata == {"c": "d"}
    deleted = client.conversations.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_items_are_added_listed_read_and_removed(client):
    made = client.conversations.create(items=[user("One"), user("Two")])
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    added = client.conversations.items.create(made.id, items=[user("Three"), call])
    assert [item.type for item in added.data] == ["message", "function_call"]
    first = added.data[0]
    assert (first.status, first.role, first.content[0].type) == ("completed", "user", "input_text")
    assert client.conversations.items.retrieve(first.id, conversation_id=made.id) == first
    newest = list(client.conversations.items.list(made.id))
    assert [item.type for item in newest] == ["function_call", "message", "message", "message"]
    assert [item.id for item in client.conversations.items.list(made.id, limit=1)] == [item.id for item in newest]
    assert client.conversations.items.delete(newest[0].id, conversation_id=made.id).id == made.id
    assert texts(client, made) == ["One", "Two", "Three"]
    assert texts(client, made, after=newest[2].id) == ["Three"]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(newest[0].id, conversation_id=made.id)


def test_an_id_that_was_sent_is_kept_unless_it_is_taken(client):
    made = client.conversations.create(items=[user("One") | {"id": "msg_1"}])
    added = client.conversations.items.create(made.id, items=[user("Two") | {"id": "msg_1"}])
    assert added.data[0].id != "msg_1"
    assert client.conversations.items.retrieve("msg_1", conversation_id=made.id).content[0].text == "One"


OTHERS = [
    {"type": "web_search_call", "id": "ws_1", "status": "failed", "action": {"type": "search", "query": "fox"}},
    {"type": "mcp_call", "id": "mcp_1", "server_label": "wiki", "name": "find", "arguments": "{}", "output": "A fox."},
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"},
    {"type": "message", "id": "msg_1", "role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]},
]


def test_items_come_back_as_they_were_sent(client):
    made = client.conversations.create(items=OTHERS)
    found = client.conversations.items.list(made.id, order="asc")
    assert [item.to_dict() for item in found] == [{"status": "completed"} | item for item in OTHERS]


def test_an_item_that_the_model_cannot_take_is_named_and_can_be_removed(client, ask):
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    items = [user("One"), {"role": "assistant", "content": "Two"}, {"role": "user", "content": [picture]}]
    made = client.conversations.create(items=items)
    bad = client.conversations.items.list(made.id, order="desc").data[0].id
    with pytest.raises(openai.BadRequestError, match=f"in the item '{bad}'"):
        ask(made.id, "Hi", instructions="Be kind.")
    client.conversations.items.delete(bad, conversation_id=made.id)
    assert ask(made.id, "Hi").id
    with pytest.raises(openai.BadRequestError) as refused:  # the request's own item
        ask(made.id, [{"role": "user", "content": [picture]}])
    assert "in the item" not in str(refused.value)


def test_an_order_that_is_none_is_refused(client):
    made = client.conversations.create()
    with pytest.raises(openai.BadRequestError, match="'order' must be"):
        client.conversations.items.list(made.id, order="x")


@pytest.mark.parametrize("keeps", [True, False])
def test_a_response_reads_what_came_before_it_and_its_items_are_added(ask, client, keeps):
    made = client.conversations.create(items=[user("Hello")])
    first = ask(made.id, keeps=keeps)
    assert first.conversation.id == made.id
    second = ask({"id": made.id}, "Sure?", "Yes.", keeps=keeps)
    assert texts(client, made) == ["Hello", "2+2?", "Four.", "Sure?", "Yes."]
    before = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.content[0].text for item in before] == ["Hello", "2+2?", "Four.", "Sure?"]
    assert texts(client, made) == ["Hello", "2+2?", "Four.", "Sure?", "Yes."]  # now from what was derived before
    assert client.responses.input_tokens.count(model="tiny", conversation=made.id).input_tokens > 20


def test_the_prompt_holds_the_conversation(client, kept, encoder):
    made = client.conversations.create(items=[user("Hello")])
    client.responses.create(model="tiny", input="2+2?", conversation=made.id, background=True)
    prompt = encoder.decode(kept.ledger.claim(0).request.prompt_ids)
    assert -1 < prompt.find("Hello") < prompt.find("2+2?")


def test_one_response_at_a_time(client, kept, ask):
    made = client.conversations.create()
    running = client.responses.create(model="tiny", input="2+2?", conversation=made.id, background=True)
    for call in (
        lambda: client.responses.create(model="tiny", input="Hi", conversation=made.id),
        lambda: client.conversations.items.create(made.id, items=[user("Hi")]),
    ):
        with pytest.raises(openai.ConflictError) as refused:
            call()
        assert (refused.value.code, refused.value.param) == ("conversation_locked", "conversation")
    assert texts(client, made) == []
    kept.say()
    assert client.responses.retrieve(running.id).status == "completed"
    ask(made.id, "Sure?", "Yes.")
    assert texts(client, made) == ["2+2?", "Four.", "Sure?", "Yes."]


def test_of_two_requests_that_both_saw_a_free_conversation_one_is_faster(client, kept, monkeypatch):
    made = client.conversations.create()
    monkeypatch.setattr(conversations, "check_free", lambda service, row: None)
    seen = conversations.conversation
    row = seen(kept.app.extensions["omni"], keys.owner_of("sk-local"), made.id)
    client.responses.create(model="tiny", input="2+2?", conversation=made.id, background=True)
    monkeypatch.setattr(conversations, "conversation", lambda *_: row)
    with pytest.raises(openai.ConflictError):
        client.responses.create(model="tiny", input="2+2?", conversation=made.id, background=True)


def test_a_request_that_is_refused_or_fails_leaves_the_conversation_free_and_as_it_was(client, ask):
    made = client.conversations.create()
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="tiny", input="x" * 9000, conversation=made.id)
    ask(made.id, end=Failed(JobFailed.code, "It broke."))
    ask(made.id, "Sure?", "Yes.")
    assert texts(client, made) == ["Sure?", "Yes."]


def test_a_request_that_is_sent_again_is_the_same_response(client, kept):
    made = client.conversations.create()
    sent = {"model": "tiny", "input": "2+2?", "conversation": made.id, "background": True}
    first, again = (client.responses.create(**sent, extra_headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.id == again.id
    kept.say()
    assert texts(client, made) == ["2+2?", "Four."]


def test_an_api_that_died_between_the_store_and_the_queue_locks_the_conversation_for_a_moment(
    client, kept, monkeypatch
):
    made = client.conversations.create()
    service = kept.app.extensions["omni"]
    row = conversations.conversation(service, keys.owner_of("sk-local"), made.id)
    conversations.begin(service, row, "resp_" + "0" * 32)
    sent = {"model": "tiny", "input": "2+2?", "conversation": made.id, "background": True}
    with pytest.raises(openai.ConflictError):
        client.responses.create(**sent)
    monkeypatch.setattr(conversations, "SUBMIT_S", 0)
    client.responses.create(**sent)
    kept.say()
    assert texts(client, made) == ["2+2?", "Four."]


def test_items_outlive_their_responses_and_redis(client, kept, ask):
    made = client.conversations.create()
    deleted, whole = ask(made.id), ask(made.id, "Sure?", "Yes.")
    with client.responses.create(model="tiny", input="Hi", conversation=made.id, store=False, stream=True):
        not_stored = kept.say("Ho.")
    kept.keep()
    client.responses.delete(deleted.id)
    kept.redis.flushall()
    for response_id in (deleted.id, not_stored):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response_id)
    assert texts(client, made) == ["2+2?", "Four.", "Sure?", "Yes.", "Hi", "Ho."]
    assert client.responses.retrieve(whole.id).output_text == "Yes."


def test_a_deleted_conversation_leaves_its_responses(client, kept, ask):
    made = client.conversations.create()
    response = ask(made.id)
    client.conversations.delete(made.id)
    kept.forget(response.id)
    assert client.responses.retrieve(response.id).output_text == "Four."
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.list(made.id)


def test_an_item_of_a_response_is_removed_from_the_conversation_only(client, ask):
    made = client.conversations.create()
    response = ask(made.id)
    client.conversations.items.delete(f"msg_{response.id[5:]}00", conversation_id=made.id)
    assert texts(client, made) == ["2+2?"]
    assert client.responses.retrieve(response.id).output_text == "Four."


def test_another_key_sees_none_of_it(client, kept):
    made = client.conversations.create(items=[user("Hello")])
    [item] = client.conversations.items.list(made.id)
    other = kept.openai("sk-other")
    for call in (
        lambda: other.conversations.retrieve(made.id),
        lambda: other.conversations.update(made.id, metadata={}),
        lambda: other.conversations.delete(made.id),
        lambda: other.conversations.items.list(made.id),
        lambda: other.conversations.items.create(made.id, items=[user("Hi")]),
        lambda: other.conversations.items.retrieve(item.id, conversation_id=made.id),
        lambda: other.conversations.items.delete(item.id, conversation_id=made.id),
        lambda: other.responses.create(model="tiny", input="Hi", conversation=made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    assert texts(client, made) == ["Hello"]


def test_a_conversation_and_a_previous_response_exclude_each_other(client, ask):
    made = client.conversations.create()
    first = ask(made.id)
    with pytest.raises(openai.BadRequestError, match="Mutually exclusive parameters"):
        client.responses.create(model="tiny", input="Hi", conversation=made.id, previous_response_id=first.id)


def test_at_most_twenty_items_are_added_at_once(client):
    for call in (
        lambda: client.conversations.create(items=[user("Hi")] * 21),
        lambda: client.conversations.items.create(client.conversations.create().id, items=[]),
    ):
        with pytest.raises(openai.BadRequestError):
            call()


def test_logprobs_are_shown_where_they_are_asked_for(client):
    part = {"type": "output_text", "text": "Ho", "annotations": [], "logprobs": [{"token": "Ho"}]}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
    assert shown_item(message, [])["content"][0]["logprobs"] == []
    assert shown_item(message, ["message.output_text.logprobs"])["content"] == [part]
    made = client.conversations.create(items=[message])
    [shown] = client.conversations.items.list(made.id, include=["message.output_text.logprobs"])
    assert (shown.status, shown.content[0].annotations, shown.content[0].text) == ("completed", [], "Ho")


def test_a_cancelled_response_frees_the_conversation_and_adds_nothing(client, ask):
    made = client.conversations.create()
    running = client.responses.create(model="tiny", input="2+2?", conversation=made.id, background=True)
    assert client.responses.cancel(running.id).status == "cancelled"
    ask(made.id, "Sure?", "Yes.")
    assert texts(client, made) == ["Sure?", "Yes."]


@pytest.mark.parametrize("has_lock", [True, False])
def test_without_the_lock_two_responses_would_read_the_same_past(client, kept, monkeypatch, has_lock):
    if not has_lock:
        monkeypatch.setattr(conversations, "begin", lambda *_: None)
    made = client.conversations.create()
    sent = {"model": "tiny", "input": "2+2?", "conversation": made.id, "background": True}
    client.responses.create(**sent)
    if has_lock:
        with pytest.raises(openai.ConflictError):
            client.responses.create(**sent)
    else:
        client.responses.create(**sent)


@pytest.mark.parametrize("name", ["%00", "conv_%00", "%F0%9F%98%80", "conv_" + "0" * 32, "a" * 999])
def test_what_is_no_id_is_not_found(kept, name):
    http, key = kept.app.test_client(), {"Authorization": "Bearer sk-local"}
    made = kept.openai().conversations.create()
    for path in (f"conversations/{name}", f"conversations/{made.id}/items/{name}", f"responses/{name}"):
        assert http.get(f"/v1/{path}", headers=key).status_code == 404


@pytest.mark.parametrize("item_id", ["a\0", "", "a" * 300])
def test_an_item_s_id_that_cannot_be_kept_is_replaced_or_refused(kept, item_id):
    sent = {"items": [user("Hi") | {"id": item_id}]}
    answer = kept.app.test_client().post("/v1/conversations", json=sent, headers={"Authorization": "Bearer sk-local"})
    assert answer.status_code == (400 if len(item_id) > 256 else 200)
