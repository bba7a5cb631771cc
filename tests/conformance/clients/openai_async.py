"""openai, asynchronous: many requests of one client at once."""

import asyncio
import json
from typing import Any

import openai
from checks import HELLO, KEY, LONG, MODEL, URL, WEATHER, leaving, run
from pydantic import BaseModel, Field

MESSAGES: Any = [{"role": "user", "content": HELLO}]


class Place(BaseModel):
    city: str = Field(max_length=20)


def client() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


async def eight_streams_at_once_say_what_one_says() -> None:
    async def text() -> str:
        stream = await openai_client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=16, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async with client() as openai_client:
        assert len({await text(), *await asyncio.gather(*(text() for _ in range(8)))}) == 1


async def parse_gives_a_typed_answer() -> None:
    async with client() as openai_client:
        answer = await openai_client.chat.completions.parse(
            model=MODEL, messages=MESSAGES, response_format=Place, max_tokens=800
        )
    assert isinstance(answer.choices[0].message.parsed, Place)


async def the_stream_helper_gives_a_typed_answer() -> None:
    async with client() as openai_client:
        async with openai_client.chat.completions.stream(
            model=MODEL, messages=MESSAGES, response_format=Place, max_tokens=800
        ) as stream:
            answer = await stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Place)


async def a_required_tool_is_called() -> None:
    async with client() as openai_client:
        answer = await openai_client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[WEATHER], tool_choice="required", max_tokens=800
        )
    calls = answer.choices[0].message.tool_calls
    assert calls and "city" in json.loads(calls[0].function.arguments)


async def a_tool_call_is_streamed_with_its_usage() -> None:
    async with client() as openai_client:
        async with openai_client.chat.completions.stream(
            model=MODEL, messages=MESSAGES, tools=[WEATHER], tool_choice="required", max_tokens=800,
            parallel_tool_calls=False, stream_options={"include_usage": True},
        ) as stream:  # fmt: skip
            final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls and "city" in json.loads(calls[0].function.arguments)
    assert final.usage and final.usage.completion_tokens > 0


async def a_cancelled_task_cancels_its_job() -> None:
    async with client() as openai_client:
        with leaving():
            task = asyncio.create_task(
                openai_client.chat.completions.create(model=MODEL, messages=MESSAGES, **LONG)  # type: ignore[call-overload]
            )
            await asyncio.sleep(0.3)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def leaving_a_stream_cancels_its_job() -> None:
    async with client() as openai_client:
        with leaving():
            stream = await openai_client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, **LONG)
            await anext(aiter(stream))
            await stream.close()


async def a_response_streams_and_parses() -> None:
    async with client() as openai_client:
        async with openai_client.responses.stream(
            model=MODEL, input=HELLO, text_format=Place, max_output_tokens=800
        ) as stream:
            final = await stream.get_final_response()
    assert isinstance(final.output_parsed, Place) and final.usage and final.usage.output_tokens > 0


async def an_error_names_its_field() -> None:
    async with client() as openai_client:
        try:
            await openai_client.chat.completions.create(model=MODEL, messages=[])
        except openai.BadRequestError as error:
            assert error.param == "messages"
            return
    raise AssertionError("an empty conversation was taken")


run(
    eight_streams_at_once_say_what_one_says, parse_gives_a_typed_answer, the_stream_helper_gives_a_typed_answer,
    a_required_tool_is_called, a_tool_call_is_streamed_with_its_usage, a_cancelled_task_cancels_its_job,
    leaving_a_stream_cancels_its_job, a_response_streams_and_parses, an_error_names_its_field,
)  # fmt: skip
