"""openai, synchronous, with its helpers."""

import json
from typing import Any

import openai
from checks import HELLO, KEY, LONG, MODEL, URL, WEATHER, leaving, run
from pydantic import BaseModel, Field

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
MESSAGES: Any = [{"role": "user", "content": HELLO}]


class Place(BaseModel):
    city: str = Field(max_length=20)
    is_large: bool


def a_chat_is_answered() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=20)
    assert answer.choices[0].message.content and answer.usage and answer.usage.completion_tokens <= 20


def a_stream_ends_with_its_usage() -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert not chunks[-1].choices and chunks[-1].usage and all(chunk.usage is None for chunk in chunks[:-1])


def the_stream_helper_puts_the_answer_together() -> None:
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, max_tokens=20, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert text and stream.get_final_completion().choices[0].message.content == text


def parse_gives_a_typed_answer() -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Place, max_tokens=800)
    assert isinstance(answer.choices[0].message.parsed, Place)


def a_json_object_is_json() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=800, temperature=0
    )
    assert answer.choices[0].finish_reason == "length" or isinstance(
        json.loads(answer.choices[0].message.content or ""), dict
    )


def a_required_tool_is_called_and_its_result_taken_back() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[WEATHER], tool_choice="required", max_tokens=800
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    call = choice.message.tool_calls[0]
    assert call.function.name == "get_weather" and "city" in json.loads(call.function.arguments)
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    again = client.chat.completions.create(
        model=MODEL, messages=[*MESSAGES, choice.message, result], tools=[WEATHER], max_tokens=20
    )
    assert again.choices[0].message.content is not None or again.choices[0].message.tool_calls


def a_named_tools_arguments_are_streamed() -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, tools=[WEATHER], tool_choice=named, max_tokens=800
    ) as stream:
        pieces = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion().choices[0]
    assert pieces and final.message.tool_calls and final.finish_reason in ("stop", "tool_calls")
    assert "city" in json.loads(final.message.tool_calls[0].function.arguments)


def the_older_functions_are_called_too() -> None:
    function: Any = WEATHER["function"]
    old: dict[str, Any] = {"functions": [function], "function_call": {"name": "get_weather"}}
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=800, extra_body=old)
    called = answer.choices[0].message.function_call
    assert answer.choices[0].finish_reason == "function_call" and called and "city" in json.loads(called.arguments)
    said = {"role": "assistant", "content": None, "function_call": called.model_dump()}
    result = {"role": "function", "name": "get_weather", "content": "sunny"}
    talk: Any = [*MESSAGES, said, result]
    again = client.chat.completions.create(
        model=MODEL, messages=talk, max_tokens=20, extra_body=old | {"function_call": "none"}
    )
    assert again.choices[0].message.content is not None


def several_choices_and_logprobs_come_back() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, n=3, logprobs=True, top_logprobs=2, max_tokens=4, seed=1
    )
    assert len(answer.choices) == 3
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.content and len(logprobs.content[0].top_logprobs) == 2


def a_stop_string_is_never_shown() -> None:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=20, temperature=0)
    text = whole.choices[0].message.content or ""
    stop = text[3:5]
    cut = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=20, temperature=0, stop=[stop])
    assert cut.choices[0].message.content == text[: text.index(stop)] and cut.choices[0].finish_reason == "stop"


def errors_are_the_sdks_own() -> None:
    for change, kind, param in [
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
    ]:
        try:
            client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES} | change)  # type: ignore[call-overload]
        except kind as error:
            assert error.param == param, error.param
        else:
            raise AssertionError(f"{change} was taken")
    try:
        client.with_options(api_key="wrong").models.list()
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"


def a_refused_stream_raises_before_its_first_chunk() -> None:
    try:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, top_p=2)
    except openai.BadRequestError as error:
        assert error.param == "top_p"
        return
    raise AssertionError("top_p 2 was taken")


def closing_a_stream_cancels_its_job() -> None:
    with leaving():
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, **LONG)
        next(iter(stream))
        stream.close()


def a_timeout_cancels_what_is_not_streamed() -> None:
    with leaving():
        try:
            client.with_options(timeout=0.3).chat.completions.create(model=MODEL, messages=MESSAGES, **LONG)
        except (openai.APITimeoutError, openai.InternalServerError):
            return
    raise AssertionError("no timeout")


def a_stream_is_parsed_into_a_typed_answer() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, response_format=Place, max_tokens=800, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Place) and final.usage and final.usage.completion_tokens > 0


def the_older_completions_work_streaming_and_not() -> None:
    whole = client.completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=5, temperature=0, logprobs=1)
    assert [choice.index for choice in whole.choices] == [0, 1] and whole.choices[0].logprobs
    parts = client.completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=5, temperature=0, stream=True)
    texts = {0: "", 1: ""}
    for part in parts:
        texts[part.choices[0].index] += part.choices[0].text
    assert list(texts.values()) == [choice.text for choice in whole.choices]


def models_are_listed() -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def responses_answer_and_stream() -> None:
    answer = client.responses.create(model=MODEL, input=HELLO, max_output_tokens=20)
    assert answer.status in ("completed", "incomplete") and answer.output_text
    with client.responses.stream(model=MODEL, input=HELLO, max_output_tokens=20) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")
    assert "response.output_text.delta" in kinds


TOOL: Any = {"type": "function", **WEATHER["function"]}


def a_response_is_parsed_and_calls_tools() -> None:
    parsed = client.responses.parse(model=MODEL, input=HELLO, text_format=Place, max_output_tokens=800)
    assert isinstance(parsed.output_parsed, Place) and parsed.usage and parsed.usage.output_tokens > 0
    asked = client.responses.create(
        model=MODEL, input=HELLO, tools=[TOOL], tool_choice="required", max_output_tokens=800
    )
    call = next(item for item in asked.output if item.type == "function_call")
    assert call.name == "get_weather" and "city" in json.loads(call.arguments)
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    told = client.responses.create(
        model=MODEL, input=result, previous_response_id=asked.id, tools=[TOOL], tool_choice="none", max_output_tokens=20
    )
    assert told.previous_response_id == asked.id and told.output_text is not None


def a_responses_tool_call_is_streamed() -> None:
    with client.responses.stream(
        model=MODEL, input=HELLO, tools=[TOOL], tool_choice="required", max_output_tokens=800
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    call = next(item for item in final.output if item.type == "function_call")
    assert "".join(pieces) == call.arguments and "city" in json.loads(call.arguments)


def a_background_response_is_cancelled_and_a_stream_resumed() -> None:
    asked = client.responses.create(
        model=MODEL, input=HELLO, background=True, max_output_tokens=3000, extra_body={"ignore_eos": True}
    )
    assert asked.status in ("queued", "in_progress")
    assert client.responses.cancel(asked.id).status == "cancelled"
    stream = client.responses.create(model=MODEL, input=HELLO, background=True, stream=True, max_output_tokens=20)
    events = [next(iter(stream)) for _ in range(2)]
    stream.close()
    rest = list(client.responses.retrieve(events[0].response.id, stream=True, starting_after=1))
    assert [event.sequence_number for event in rest] == list(range(2, len(rest) + 2))
    assert rest[-1].type in ("response.completed", "response.incomplete")


def a_responses_error_is_the_sdks_own() -> None:
    for change, kind in [
        ({"previous_response_id": "resp_none"}, openai.BadRequestError),
        ({"model": "gpt-4o"}, openai.NotFoundError),
    ]:
        try:
            client.responses.create(**{"model": MODEL, "input": HELLO} | change)  # type: ignore[call-overload]
        except kind:
            continue
        raise AssertionError(f"{change} was taken")


run(
    a_chat_is_answered, a_stream_ends_with_its_usage, the_stream_helper_puts_the_answer_together,
    parse_gives_a_typed_answer, a_stream_is_parsed_into_a_typed_answer, a_json_object_is_json,
    a_required_tool_is_called_and_its_result_taken_back, a_named_tools_arguments_are_streamed,
    the_older_functions_are_called_too, several_choices_and_logprobs_come_back, a_stop_string_is_never_shown,
    errors_are_the_sdks_own,
    a_refused_stream_raises_before_its_first_chunk, closing_a_stream_cancels_its_job,
    a_timeout_cancels_what_is_not_streamed, the_older_completions_work_streaming_and_not, models_are_listed,
    responses_answer_and_stream, a_response_is_parsed_and_calls_tools, a_responses_tool_call_is_streamed,
    a_background_response_is_cancelled_and_a_stream_resumed, a_responses_error_is_the_sdks_own,
)  # fmt: skip
