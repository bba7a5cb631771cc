"""pydantic-ai: typed agents, by tools and by JSON schema."""

import asyncio

from checks import HELLO, KEY, LONG, MODEL, URL, leaving, run
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits


class Place(BaseModel, extra="forbid"):
    """A place."""

    city: str = Field(max_length=20)


def model(name: str = MODEL) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY))


def an_agent_answers_with_its_usage() -> None:
    answer = Agent(model()).run_sync(HELLO, model_settings={"max_tokens": 20})
    assert isinstance(answer.output, str) and answer.usage.output_tokens > 0


def an_output_tool_gives_a_typed_answer() -> None:
    agent = Agent(model(), output_type=ToolOutput(Place))
    assert isinstance(agent.run_sync(HELLO, model_settings={"max_tokens": 800}).output, Place)


def a_json_schema_gives_a_typed_answer() -> None:
    agent = Agent(model(), output_type=NativeOutput(Place))
    assert isinstance(agent.run_sync(HELLO, model_settings={"max_tokens": 800}).output, Place)


async def a_text_is_streamed() -> None:
    async with Agent(model()).run_stream(HELLO, model_settings={"max_tokens": 20}) as answer:
        pieces = [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]
        usage = answer.usage if not callable(answer.usage) else answer.usage()
    assert "".join(pieces) and usage.output_tokens > 0


async def a_typed_answer_is_streamed() -> None:
    agent = Agent(model(), output_type=ToolOutput(Place))
    async with agent.run_stream(HELLO, model_settings={"max_tokens": 800}) as answer:
        assert isinstance(await answer.get_output(), Place)


def an_error_has_its_status() -> None:
    try:
        Agent(model("gpt-4o")).run_sync(HELLO)
    except ModelHTTPError as error:
        assert error.status_code == 404
        return
    raise AssertionError("an unknown model was taken")


def a_tool_is_called_and_answered() -> None:
    agent = Agent(model(), output_type=ToolOutput(Place))
    asked = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    try:
        agent.run_sync(HELLO, model_settings={"max_tokens": 800}, usage_limits=UsageLimits(request_limit=4))
    except UsageLimitExceeded:  # a model that goes on calling instead of answering
        assert asked


async def a_json_schema_is_streamed() -> None:
    agent = Agent(model(), output_type=NativeOutput(Place))
    async with agent.run_stream(HELLO, model_settings={"max_tokens": 800}) as answer:
        assert isinstance(await answer.get_output(), Place)


async def a_streams_error_has_its_status() -> None:
    try:
        async with Agent(model("gpt-4o")).run_stream(HELLO):
            pass
    except ModelHTTPError as error:
        assert error.status_code == 404
        return
    raise AssertionError("an unknown model was taken")


async def a_cancelled_run_cancels_its_job() -> None:
    with leaving():
        task = asyncio.create_task(Agent(model()).run(HELLO, model_settings=LONG))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


run(
    an_agent_answers_with_its_usage, an_output_tool_gives_a_typed_answer, a_json_schema_gives_a_typed_answer,
    a_text_is_streamed, a_typed_answer_is_streamed, a_tool_is_called_and_answered, a_json_schema_is_streamed,
    an_error_has_its_status, a_streams_error_has_its_status, a_cancelled_run_cancels_its_job,
)  # fmt: skip
