"""pydantic-ai: typed agents, by tools and by JSON schema."""

from checks import HELLO, KEY, MODEL, URL, run
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Place(BaseModel):
    """A place."""

    city: str = Field(max_length=20)


def model(name: str = MODEL) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY))


def an_agent_answers_with_its_usage() -> None:
    answer = Agent(model()).run_sync(HELLO, model_settings={"max_tokens": 20})
    assert isinstance(answer.output, str) and answer.usage.output_tokens > 0


def an_output_tool_gives_a_typed_answer() -> None:
    agent = Agent(model(), output_type=ToolOutput(Place))
    assert isinstance(agent.run_sync(HELLO, model_settings={"max_tokens": 100}).output, Place)


def a_json_schema_gives_a_typed_answer() -> None:
    agent = Agent(model(), output_type=NativeOutput(Place))
    assert isinstance(agent.run_sync(HELLO, model_settings={"max_tokens": 100}).output, Place)


async def a_text_is_streamed() -> None:
    async with Agent(model()).run_stream(HELLO, model_settings={"max_tokens": 20}) as answer:
        pieces = [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces)


async def a_typed_answer_is_streamed() -> None:
    agent = Agent(model(), output_type=ToolOutput(Place))
    async with agent.run_stream(HELLO, model_settings={"max_tokens": 100}) as answer:
        assert isinstance(await answer.get_output(), Place)


def an_error_has_its_status() -> None:
    try:
        Agent(model("gpt-4o")).run_sync(HELLO)
    except ModelHTTPError as error:
        assert error.status_code == 404
        return
    raise AssertionError("an unknown model was taken")


run(
    an_agent_answers_with_its_usage, an_output_tool_gives_a_typed_answer, a_json_schema_gives_a_typed_answer,
    a_text_is_streamed, a_typed_answer_is_streamed, an_error_has_its_status,
)  # fmt: skip
