"""litellm, as aider and many proxies use it."""

import asyncio
import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for prices before anything else

import litellm
from checks import HELLO, KEY, LONG, MODEL, URL, WEATHER, leaving, run
from pydantic import BaseModel, Field

litellm.telemetry = False
litellm.suppress_debug_info = True
COMMON: dict[str, Any] = {
    "model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": KEY, "num_retries": 0,
    "messages": [{"role": "user", "content": HELLO}],
}  # fmt: skip


class Place(BaseModel, extra="forbid"):
    city: str = Field(max_length=20)


def a_chat_is_answered_with_its_usage() -> None:
    answer = litellm.completion(**COMMON, max_tokens=20)
    assert answer.choices[0].message.content and answer.usage.completion_tokens > 0


def a_stream_adds_up_and_ends_with_usage() -> None:
    chunks = list(litellm.completion(**COMMON, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert litellm.stream_chunk_builder(chunks).usage.completion_tokens > 0


def an_async_chat_is_answered() -> None:
    answer = asyncio.run(litellm.acompletion(**COMMON, max_tokens=8))
    assert answer.choices[0].message.content is not None


def a_json_schema_is_kept() -> None:
    answer = litellm.completion(**COMMON, max_tokens=800, response_format=Place)
    Place.model_validate_json(answer.choices[0].message.content)


def a_required_tool_is_called() -> None:
    answer = litellm.completion(**COMMON, max_tokens=800, tools=[WEATHER], tool_choice="required")
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather" and "city" in json.loads(call.function.arguments)


def a_tool_call_is_streamed() -> None:
    chunks = list(litellm.completion(**COMMON, max_tokens=800, tools=[WEATHER], tool_choice="required", stream=True))
    call = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0]
    assert "city" in json.loads(call.function.arguments)


def errors_are_litellms_own() -> None:
    for change, kind in [
        ({"model": "openai/gpt-4o"}, litellm.NotFoundError),
        ({"temperature": 3}, litellm.BadRequestError),
        ({"api_key": "wrong"}, litellm.AuthenticationError),
    ]:
        try:
            litellm.completion(**COMMON | change, max_tokens=5)
        except kind:
            continue
        raise AssertionError(f"{change} was taken")


def a_json_schema_is_streamed() -> None:
    chunks = list(litellm.completion(**COMMON, max_tokens=800, response_format=Place, stream=True))
    Place.model_validate_json(litellm.stream_chunk_builder(chunks).choices[0].message.content)


def a_refused_stream_is_litellms_error() -> None:
    try:
        list(litellm.completion(**COMMON | {"model": "openai/gpt-4o"}, max_tokens=5, stream=True))
    except litellm.NotFoundError:
        return
    raise AssertionError("an unknown model was taken")


def leaving_a_stream_cancels_its_job() -> None:
    async def leave() -> None:
        stream = await litellm.acompletion(**COMMON, **LONG, stream=True)
        await anext(aiter(stream))
        await stream.aclose()

    with leaving():
        asyncio.run(leave())


def a_cancelled_task_cancels_its_job() -> None:
    async def leave() -> None:
        task = asyncio.create_task(litellm.acompletion(**COMMON, **LONG))
        await asyncio.sleep(0.7)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with leaving():
        asyncio.run(leave())


def the_older_completions_work() -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}", prompt="Once", api_base=f"{URL}/v1", api_key=KEY, max_tokens=5
    )
    assert answer.choices[0].text


run(
    a_chat_is_answered_with_its_usage, a_stream_adds_up_and_ends_with_usage, an_async_chat_is_answered,
    a_json_schema_is_kept, a_required_tool_is_called, a_tool_call_is_streamed, errors_are_litellms_own,
    a_json_schema_is_streamed, a_refused_stream_is_litellms_error, leaving_a_stream_cancels_its_job,
    a_cancelled_task_cancels_its_job, the_older_completions_work,
)  # fmt: skip
