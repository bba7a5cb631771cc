"""References to items of stored responses, through the routes."""

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.prompt.encoder import PromptEncoder
from common.redis import keys
from common.settings import read_settings
from common.wire_codec import encode_card, encode_event
from tests.api.events import log

KEY = {"Authorization": "Bearer sk-local"}
OTHER = {"Authorization": "Bearer sk-other"}


@pytest.fixture
def client(redis: "Redis", valkey_url: str, encoder: PromptEncoder) -> FlaskClient:
    redis.hset(keys.QUEUES, "tiny", "tiny")
    redis.hset(keys.CARD_VERSIONS, "tiny", encoder.card.revision)
    redis.set(keys.card_key("tiny"), encode_card(encoder.card))
    environ = {"REDIS_URL": valkey_url, "OMNI_MODEL_NAME": "tiny", "OMNI_API_KEYS": "sk-local,sk-other"}
    return create_app(read_settings(environ)).test_client()


@pytest.fixture
def ask(client, redis):
    """POSTs a response and, unless it is to be left running, writes its log as a worker would."""

    def send(body, answer="Four.", state="finished"):
        sent = client.post("/v1/responses", json={"model": "tiny", "background": True} | body, headers=KEY)
        if sent.status_code != 200:
            return sent.get_json()["error"] | {"status": sent.status_code}
        response_id = sent.get_json()["id"]
        if answer is not None:
            for number, event in enumerate(log(answer), 1):
                redis.xadd(keys.log_key(response_id), {"e": encode_event(event)}, id=f"{number}-0")
            redis.hset(keys.job_key(response_id), "state", state)
            return client.get(f"/v1/responses/{response_id}", headers=KEY).get_json()
        return sent.get_json()

    return send


def inputs(client, response):
    items = client.get(f"/v1/responses/{response['id']}/input_items?order=asc", headers=KEY).get_json()["data"]
    return [item["content"][0]["text"] for item in items]


def reference(item):
    return {"type": "item_reference", "id": item["id"]}


def user(text):
    return {"role": "user", "content": text}


def test_an_item_of_any_stored_response_is_read_in_its_place(client, ask):
    first = ask({"input": "2+2?"})
    second = ask({"input": [user("2+2?"), reference(first["output"][0]), user("Sure?")]}, answer="Yes.")
    assert inputs(client, second) == ["2+2?", "Four.", "Sure?"]
    third = ask(
        {"input": [user("2+2?"), reference(first["output"][0]), user("Sure?"), {"id": second["output"][0]["id"]}]}
    )
    assert inputs(client, third) == ["2+2?", "Four.", "Sure?", "Yes."]
    listed = client.get(f"/v1/responses/{first['id']}/input_items", headers=KEY).get_json()["data"]
    assert inputs(client, ask({"input": [reference(listed[0])]})) == ["2+2?"]


def test_a_reference_into_the_continued_conversation_says_nothing_new(client, ask):
    first = ask({"input": "2+2?"})
    body = {"previous_response_id": first["id"], "input": [reference(first["output"][0]), user("Sure?")]}
    assert inputs(client, ask(body)) == ["2+2?", "Four.", "Sure?"]


def test_a_later_response_holds_the_items_of_those_it_referred_to(ask, redis):
    first = ask({"input": "2+2?"})
    second = ask({"input": [reference(first["output"][0]), user("Sure?")]})
    redis.delete(keys.job_key(first["id"]))
    both = [reference(first["output"][0]), reference(second["output"][0])]
    assert ask({"input": both})["status"] == "completed"


@pytest.mark.parametrize("item_id", ["msg_x", "msg_" + "0" * 34, "", "resp_" + "0" * 32, "msg_" + "0" * 31 + "G00"])
def test_an_unknown_item_is_not_found(item_id, ask):
    error = ask({"input": [user("Hi"), {"type": "item_reference", "id": item_id}]})
    assert (error["status"], error["param"]) == (404, "input[1].id") and repr(item_id) in error["message"]


def test_an_item_of_another_key_or_of_a_response_that_was_not_stored_is_not_found(client, ask, redis):
    item = ask({"input": "2+2?"})["output"][0]
    body = {"model": "tiny", "background": True, "input": [reference(item)]}
    assert client.post("/v1/responses", json=body, headers=OTHER).status_code == 404
    assert client.post("/v1/responses", json=body, headers=KEY).status_code == 200
    response_id = f"resp_{item['id'][4:36]}"
    form = redis.hget(keys.job_key(response_id), "form").replace(b'"store":true', b'"store":false')
    redis.hset(keys.job_key(response_id), "form", form)
    assert client.post("/v1/responses", json=body, headers=KEY).status_code == 404


def test_an_item_of_a_response_that_is_not_ready_is_refused_and_of_a_cancelled_one_read(client, ask):
    running = ask({"input": "2+2?"}, answer=None)
    error = ask({"input": [{"type": "item_reference", "id": f"msg_{running['id'][5:]}00"}]})
    assert (error["status"], error["param"]) == (400, "input[0].id") and "still" in error["message"]
    cancelled = ask({"input": "2+2?"}, answer="Fo", state="cancelled")
    assert inputs(client, ask({"input": [reference(cancelled["output"][0])]})) == ["Fo"]


def test_the_responses_that_references_are_looked_up_in_are_bounded(ask, monkeypatch):
    items = [ask({"input": "2+2?"})["output"][0] for _ in range(3)]
    monkeypatch.setattr("api.responses.history.MAX_REFERENCED", 2)
    assert ask({"input": [reference(item) for item in items[:2]]})["status"] == "completed"
    error = ask({"input": [reference(item) for item in items]})
    assert (error["status"], error["param"]) == (400, "input[0].id") and "more than 2" in error["message"]


def test_an_item_that_is_named_twice_is_there_once_and_the_sizes_add_up(client, ask, monkeypatch):
    items = [ask({"input": "2+2?"}, answer="a" * 3000)["output"][0] for _ in range(2)]
    named = [reference(items[0]), user("?"), reference(items[0])]
    assert inputs(client, ask({"input": named})) == ["a" * 3000, "?"]
    monkeypatch.setattr("api.responses.history.MAX_BODY_BYTES", 5000)
    error = ask({"input": [reference(item) for item in items]})
    assert (error["status"], error["param"]) == (400, "input") and "too large" in error["message"]


@pytest.mark.parametrize("sent", [{}, {"input": None}, {"input": []}])
def test_a_conversation_can_be_continued_without_new_input(sent, client, ask):
    first = ask({"input": "2+2?"})
    second = ask({"previous_response_id": first["id"]} | sent, answer="Yes.")
    assert second["status"] == "completed" and inputs(client, second) == ["2+2?", "Four."]
    error = ask(sent)
    assert (error["status"], error["param"]) == (400, "input")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x"])
def test_a_page_of_items_has_1_to_100(limit, client, ask):
    first = ask({"input": "2+2?"})
    answer = client.get(f"/v1/responses/{first['id']}/input_items?limit={limit}", headers=KEY)
    assert answer.status_code == 400 and answer.get_json()["error"]["param"] == "limit"


@pytest.mark.parametrize("item_id", [{"a": 1}, [1], 5])
def test_a_built_in_tool_s_item_with_an_odd_id_gets_one_of_ours(item_id, client, ask):
    item = {"type": "local_shell_call", "id": item_id, "call_id": "c", "action": {}}
    first = ask({"input": [item, user("Hi")]})
    second = ask({"previous_response_id": first["id"], "input": [user("Sure?")]})
    listed = client.get(f"/v1/responses/{second['id']}/input_items?order=asc", headers=KEY).get_json()["data"]
    assert listed[0]["id"] == f"item_{first['id'][5:]}000"
    assert ask({"input": [reference(listed[0])]})["status"] == "completed"


def test_a_call_of_a_very_long_name_can_be_continued(ask):
    name = "x" * 300
    tool = {"type": "function", "name": "f", "parameters": {}}
    call = f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>'
    first = ask({"input": "Hi", "tools": [tool]}, answer=call)
    assert first["output"][0]["name"] == name
    second = ask({"previous_response_id": first["id"], "input": [user("Sure?")]})
    assert second["status"] == "completed"
