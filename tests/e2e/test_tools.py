"""Tools, structured outputs and the like against the whole service, by OpenAI's own client."""

import json
import re
import time
from collections.abc import Callable

import openai
import pytest
from pydantic import BaseModel

from tests.service import RunningService, without_comments

MODEL = "omni-demo"
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": CITY, "strict": True},
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def client(service: RunningService) -> openai.OpenAI:
    return service.openai(max_retries=0)


@pytest.fixture
def ask(client: openai.OpenAI) -> Callable:
    def create(**options):
        return client.chat.completions.create(**{"model": MODEL, "messages": ASK, "temperature": 0} | options)

    return create


def test_a_tool_is_called_and_its_result_answered(ask):
    messages = list(ASK)
    for choice in ("required", "auto"):
        message = ask(messages=messages, tools=[WEATHER], tool_choice=choice).choices[0].message
        messages.append(message)
        for call in message.tool_calls or ():
            assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
            result = json.dumps({"temperature": 21, "sky": "sunny"})
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert messages[1].tool_calls and messages[1].content is None
    assert messages[-1].content and not messages[-1].tool_calls


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_required_call_is_the_same_streamed_and_whole(ask, choice):
    options = {"tools": [WEATHER], "tool_choice": choice, "seed": 1, "parallel_tool_calls": False}
    whole = ask(**options)
    assert whole.choices[0].finish_reason == "tool_calls"
    [call] = whole.choices[0].message.tool_calls
    chunks = [chunk.choices[0] for chunk in ask(**options, stream=True)]
    pieces = [piece for choice in chunks for piece in choice.delta.tool_calls or ()]
    assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
    assert [piece.function.name for piece in pieces if piece.function.name] == ["get_weather"]
    assert chunks[-1].finish_reason == "tool_calls"
    assert not any("<tool_call>" in (choice.delta.content or "") for choice in chunks)


def test_a_stop_string_in_its_arguments_breaks_no_required_call(ask):
    answer = ask(tools=[WEATHER], tool_choice="required", stop=["Paris", "Rome"], parallel_tool_calls=False).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert json.loads(answer.message.tool_calls[0].function.arguments)["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("max_tokens", [1, 4, 8])
def test_a_call_that_is_cut_off_is_neither_a_call_nor_text(ask, max_tokens):
    options = {"tools": [WEATHER], "tool_choice": NAMED, "max_tokens": max_tokens}
    answer = ask(**options).choices[0]
    chunks = [chunk.choices[0] for chunk in ask(**options, stream=True)]
    assert answer.finish_reason == chunks[-1].finish_reason == "length"
    assert not answer.message.tool_calls and not answer.message.content
    assert not any(choice.delta.content for choice in chunks)


def test_a_stream_with_a_call_is_resumed_byte_for_byte(service):
    body = {"model": MODEL, "messages": ASK, "tools": [WEATHER], "tool_choice": "required", "stream": True}
    body |= {"stream_options": {"include_event_ids": True}}
    with service.http() as http:
        whole = http.post("/v1/chat/completions", json=body).text
        frames = [frame for frame in without_comments(whole).split("\n\n") if frame.startswith("id: ")]
        job_id = json.loads(frames[0].split("data: ")[1])["id"]
        resumed = http.get(f"/v1/chat/completions/{job_id}", params={"stream": "true", "starting_after": 2}).text
    assert [frame for frame in without_comments(resumed).split("\n\n") if frame.startswith("id: ")] == frames[2:]


def test_an_answer_is_parsed_into_a_model(client):
    messages = [{"role": "user", "content": "Give me a JSON object with name Anna and age 5."}]
    options = {"model": MODEL, "messages": messages, "temperature": 0}
    parsed = client.chat.completions.parse(**options, response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)
    with client.chat.completions.stream(**options, response_format=Person) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.parsed == parsed.choices[0].message.parsed


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"structured_outputs": {"choice": ["red", "green"]}}, "red|green"),
        ({"guided_regex": "[0-9]{3}-[a-z]{2}"}, "[0-9]{3}-[a-z]{2}"),
        ({"grammar": 'root ::= "a" "b"+ "c"'}, "ab+c"),
    ],
)
def test_the_fields_of_other_servers_are_honoured(ask, extra, pattern):
    answer = ask(extra_body=extra, max_tokens=40, temperature=1).choices[0]
    assert answer.finish_reason == "length" or re.fullmatch(pattern, answer.message.content)


def test_logprobs_spell_the_answer_in_bytes(ask):
    choice = ask(messages=[{"role": "user", "content": "Hello"}], logprobs=True, top_logprobs=3, n=2).choices[1]
    entries = choice.logprobs.content
    assert bytes(byte for entry in entries for byte in entry.bytes).decode() == choice.message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)


def test_an_answer_continues_the_text_that_the_caller_began(ask):
    begun = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "<think>\nThe user"}]
    extra = {"continue_final_message": True, "min_tokens": 8}
    message = ask(messages=begun, extra_body=extra, max_tokens=8, temperature=0).choices[0].message
    assert message.model_extra["reasoning_content"] == message.model_extra["reasoning"]
    assert message.content == ""


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"guided_regex": "("}, "guided_regex"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_a_400_that_names_it(ask, extra, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(extra_body=extra)
    assert refused.value.param == param


def test_a_response_calls_a_tool_and_continues_from_its_result(client):
    tool = {"type": "function", **WEATHER["function"]}
    options = {"model": MODEL, "tools": [tool], "temperature": 0}
    first = client.responses.create(**options, input=ASK[0]["content"], tool_choice="required")
    [call] = [item for item in first.output if item.type == "function_call"][:1]
    outputs = [
        {"type": "function_call_output", "call_id": item.call_id, "output": '{"temperature": 21}'}
        for item in first.output
    ]
    second = client.responses.create(**options, input=outputs, previous_response_id=first.id)
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome") and second.output
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.input_items.list(second.id, order="asc").data[0].role == "user"


def test_a_response_is_streamed_parsed_and_resumed(client):
    with client.responses.stream(model=MODEL, input="Hello", temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    again = list(client.responses.retrieve(final.id, stream=True, starting_after=3))
    assert [event.sequence_number for event in again] == list(range(4, len(events)))
    assert client.responses.retrieve(final.id).output_text == final.output_text
    parsed = client.responses.parse(model=MODEL, input="JSON with name Anna and age 5", text_format=Person)
    assert isinstance(parsed.output_parsed, Person)


def test_a_background_response_is_polled_cancelled_and_deleted(client):
    response = client.responses.create(model=MODEL, input="Hello", background=True, temperature=0)
    assert response.status == "queued"
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    assert response.status == "completed" and response.output_text
    endless = {"model": MODEL, "input": "Hello", "background": True, "extra_body": {"ignore_eos": True}}
    cancelled = client.responses.create(**endless)
    assert client.responses.cancel(cancelled.id).status == "cancelled"
    client.responses.delete(cancelled.id)
    for gone in (cancelled.id, "resp_never"):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="x", previous_response_id=cancelled.id)
    assert refused.value.code == "previous_response_not_found"


def test_anthropics_form_is_answered_streamed_and_counted(service):
    tool = {"name": "get_weather", "input_schema": CITY}
    body = {"model": MODEL, "max_tokens": 60, "messages": ASK, "temperature": 0}
    calling = body | {"tools": [tool], "tool_choice": {"type": "any"}}
    with service.http() as http:
        http.headers["x-api-key"] = http.headers.pop("authorization").split()[1]
        message = http.post("/v1/messages", json=calling).json()
        assert message["stop_reason"] == "tool_use" and message["content"][0]["input"]["city"] in ("Paris", "Rome")
        stream = http.post("/v1/messages", json=body | {"stream": True}).text
        counted = http.post("/v1/messages/count_tokens", json=calling).json()
        refused = http.post("/v1/messages", json=body | {"model": "none"})
    names = [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert counted == {
        "input_tokens": sum(message["usage"][name] for name in ("input_tokens", "cache_read_input_tokens"))
    }
    assert refused.status_code == 404 and refused.json()["error"]["type"] == "not_found_error"
