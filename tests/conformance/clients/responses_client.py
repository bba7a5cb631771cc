"""/v1/responses with openai, each object and event also parsed by the types of Open Responses (openresponses-types)."""

import enum
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openai
import openresponses_types
from checks import HELLO, KEY, MODEL, URL, WEATHER, run
from pydantic import BaseModel

GOLDEN = Path(__file__).parents[2] / "api" / "golden"
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
COMMON: Any = {"model": MODEL, "input": HELLO, "max_output_tokens": 800}
TOOL: Any = {"type": "function", **WEATHER["function"]}
SPELL: Any = {
    "type": "custom",
    "name": "spell",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "ab" "ab"? "c"'},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
SHAPED: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
# The specification's names for OpenAI's.
RENAMED = {
    "response.reasoning_text.delta": "response.reasoning.delta",
    "response.reasoning_text.done": "response.reasoning.done",
}


def event_types() -> dict[str, type[BaseModel]]:
    """The type of each event, by the event's name."""
    types = {}
    for kind in vars(openresponses_types).values():
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__name__.endswith("StreamingEvent"):
            names = kind.model_fields["type"].annotation
            assert names is not None and issubclass(names, enum.StrEnum)
            types |= {str(name): kind for name in names}
    return types


EVENTS = event_types()


def parse_object(body: dict[str, Any]) -> None:
    """The specification's type knows a response's own JSON schema only as null, and no custom tools."""
    wanted = body["text"]["format"]
    text = body["text"] | {"format": wanted | {"schema": None} if wanted["type"] == "json_schema" else wanted}
    openresponses_types.ResponseResource.model_validate_json(json.dumps(body | {"text": text}))


def parse_events(events: Iterable[dict[str, Any]]) -> list[str]:
    names = []
    for event in events:
        names.append(event["type"])
        if "response" in event:
            parse_object(event["response"])
        else:
            name = RENAMED.get(event["type"], event["type"])
            EVENTS[name].model_validate_json(json.dumps(event | {"type": name}))
    return names


def sent_events(**body: Any) -> list[dict[str, Any]]:
    with client.responses.with_streaming_response.create(**COMMON | body, stream=True) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines]


def every_object_parses() -> None:
    bodies: list[dict[str, Any]] = [
        {},
        {"max_output_tokens": 3},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL, {"type": "web_search"}], "tool_choice": {"type": "function", "name": "get_weather"}},
        {"text": SHAPED},
        {"text": {"verbosity": "low"}, "reasoning": {"effort": "low", "summary": "auto"}, "service_tier": "flex"},
        {"background": True, "metadata": {"a": "b"}, "prompt_cache_key": "k", "safety_identifier": "s"},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 5},
    ]
    for body in bodies:
        parse_object(client.responses.with_raw_response.create(**COMMON | body).http_response.json())


def every_event_parses() -> None:
    names = parse_events(sent_events())
    assert names[0] == "response.created" and "response.output_text.delta" in names
    assert "response.function_call_arguments.done" in parse_events(sent_events(tools=[TOOL], tool_choice="required"))
    assert "response.incomplete" in parse_events(sent_events(max_output_tokens=3))
    assert "response.queued" in parse_events(sent_events(background=True))
    parse_events(sent_events(include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=5))


def events_of_reasoning_parse() -> None:
    """The demo model does not reason, so these are of streams that were found right by hand."""
    for name, delta in [("thought", "reasoning_text.delta"), ("summary", "reasoning_summary_text.delta")]:
        lines = (GOLDEN / f"response_{name}.sse").read_text().splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        assert f"response.{delta}" in parse_events(event for event in events if "response" not in event)


def an_item_of_an_earlier_response_is_named_by_its_id() -> None:
    first = client.responses.create(**COMMON | {"max_output_tokens": 20})
    said: Any = first.output[0]
    second = client.responses.create(
        **COMMON
        | {
            "max_output_tokens": 20,
            "input": [{"type": "item_reference", "id": said.id}, {"role": "user", "content": "And?"}],
        }
    )
    items: Any = client.responses.input_items.list(second.id, order="asc").data
    assert [item.id for item in items][0] == said.id and items[0].content[0].text == first.output_text
    try:
        client.responses.create(**COMMON | {"input": [{"type": "item_reference", "id": f"msg_{'0' * 34}"}]})
    except openai.NotFoundError as error:
        assert error.param == "input[0].id"
        return
    raise AssertionError("an unknown item was taken")


def a_custom_tool_s_call_is_streamed_and_its_result_taken() -> None:
    with client.responses.stream(**COMMON, tools=[SPELL], tool_choice={"type": "custom", "name": "spell"}) as stream:
        pieces = [event.delta for event in stream if event.type == "response.custom_tool_call_input.delta"]
        [call] = stream.get_final_response().output
    assert call.type == "custom_tool_call" and call.input == "".join(pieces) and call.input.endswith("abc")
    result: Any = [{"type": "custom_tool_call_output", "call_id": call.call_id, "output": "spelt"}]
    told = client.responses.create(
        **COMMON | {"input": [{"role": "user", "content": HELLO}, call.model_dump(), *result], "tools": [SPELL]},
        tool_choice="none",
    )
    assert told.output_text


def a_call_in_a_namespace_comes_back_with_it() -> None:
    agents: Any = {"type": "namespace", "name": "agents_v1", "description": "Agents.", "tools": [TOOL]}
    [call] = client.responses.create(**COMMON, tools=[agents], tool_choice="required", parallel_tool_calls=False).output
    assert call.type == "function_call" and (call.namespace, call.name) == ("agents_v1", "get_weather")


def a_chat_calls_a_custom_tool() -> None:
    tool: Any = {
        "type": "custom",
        "custom": {"name": "spell", "format": {"type": "grammar", "grammar": SPELL["format"]}},
    }
    tool["custom"]["format"]["grammar"] = {"syntax": "lark", "definition": 'start: "ab" "ab"? "c"'}
    messages: Any = [{"role": "user", "content": HELLO}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=800
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "custom" and call.custom.input.endswith("abc")
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "spelt"}
    again = client.chat.completions.create(
        model=MODEL, messages=[*messages, answer.choices[0].message, result], tools=[tool], max_tokens=20
    )
    assert again.choices[0].message


def a_long_conversation_is_cut_from_the_front_when_asked() -> None:
    said = [{"role": role, "content": "word " * 300} for role in ("user", "assistant") * 12]
    long: Any = [*said, {"role": "user", "content": HELLO}]
    try:
        client.responses.create(**COMMON | {"input": long})
        raise AssertionError("a conversation that does not fit was taken")
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
    answer = client.responses.create(**COMMON | {"input": long, "max_output_tokens": 20}, truncation="auto")
    assert answer.truncation == "auto" and 0 < (answer.model_extra or {})["dropped_items"] < len(said)
    parse_object(answer.model_dump(mode="json", by_alias=True))


def items_and_tokens_are_counted_and_a_response_deleted() -> None:
    counted = client.responses.input_tokens.count(model=MODEL, input=HELLO)
    answer = client.responses.create(**COMMON | {"max_output_tokens": 5})
    assert answer.usage and counted.input_tokens == answer.usage.input_tokens
    assert client.responses.retrieve(answer.id).output_text == answer.output_text
    client.responses.delete(answer.id)
    try:
        client.responses.retrieve(answer.id)
    except openai.NotFoundError:
        return
    raise AssertionError("a deleted response was found")


run(
    every_object_parses, every_event_parses, events_of_reasoning_parse,
    an_item_of_an_earlier_response_is_named_by_its_id, a_custom_tool_s_call_is_streamed_and_its_result_taken,
    a_call_in_a_namespace_comes_back_with_it, a_chat_calls_a_custom_tool,
    a_long_conversation_is_cut_from_the_front_when_asked, items_and_tokens_are_counted_and_a_response_deleted,
)  # fmt: skip
