"""langchain-openai: ChatOpenAI as agents use it."""

import asyncio

import httpx
import openai
from checks import HELLO, KEY, LONG, MODEL, URL, leaving, run
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field


class Place(BaseModel, extra="forbid"):
    """A place."""

    city: str = Field(max_length=20)


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def chat(max_tokens: int = 30, model: str = MODEL) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, model=model, max_tokens=max_tokens, max_retries=0)


def a_message_is_answered_with_its_usage() -> None:
    answer = chat().invoke([HumanMessage(HELLO)])
    assert answer.content and answer.usage_metadata and answer.usage_metadata["output_tokens"] > 0


def a_stream_adds_up() -> None:
    chunks = list(chat().stream(HELLO, stream_usage=True))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.content and whole.usage_metadata and whole.usage_metadata["total_tokens"] > 0


def an_async_batch_is_answered() -> None:
    answers = asyncio.run(chat(8).abatch([HELLO] * 4))
    assert len(answers) == 4 and all(isinstance(answer, AIMessage) for answer in answers)


def structured_output_is_typed() -> None:
    for method in ("json_schema", "function_calling"):
        answer = chat(800).with_structured_output(Place, method=method).invoke(HELLO)
        assert isinstance(answer, Place), method


def a_bound_tool_is_called_and_answered() -> None:
    asked = chat(800).bind_tools([get_weather], tool_choice="get_weather").invoke(HELLO)
    call = asked.tool_calls[0]
    assert call["name"] == "get_weather"
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert chat(20).bind_tools([get_weather]).invoke([HumanMessage(HELLO), asked, result]) is not None


def a_tool_call_is_streamed() -> None:
    whole = None
    for chunk in chat(800).bind_tools([get_weather], tool_choice="required").stream(HELLO):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and whole.tool_calls[0]["name"] == "get_weather"


def errors_are_openais() -> None:
    try:
        chat(model="gpt-4o").invoke(HELLO)
    except openai.NotFoundError:
        return
    raise AssertionError("an unknown model was taken")


def a_refused_stream_is_openais_error() -> None:
    try:
        list(chat(model="gpt-4o").stream(HELLO))
    except openai.NotFoundError:
        return
    raise AssertionError("an unknown model was taken")


def structured_output_is_streamed() -> None:
    parts = list(chat(800).with_structured_output(Place, method="json_schema").stream(HELLO))
    assert isinstance(parts[-1], Place)


def leaving_a_stream_cancels_its_job() -> None:
    long = ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, max_retries=0, **LONG)
    with leaving():
        stream = long.stream(HELLO)
        next(stream)
        stream.close()


def a_cancelled_task_cancels_its_job() -> None:
    async def leave() -> None:
        async with httpx.AsyncClient() as http:  # the cached one belongs to the event loop that used it first
            long = ChatOpenAI(
                base_url=f"{URL}/v1", api_key=KEY, model=MODEL, max_retries=0, http_async_client=http, **LONG
            )
            task = asyncio.create_task(long.ainvoke(HELLO))
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with leaving():
        asyncio.run(leave())


def the_older_completions_work() -> None:
    text = OpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, max_tokens=5, max_retries=0).invoke("Once")
    assert isinstance(text, str)


run(
    a_message_is_answered_with_its_usage, a_stream_adds_up, an_async_batch_is_answered, structured_output_is_typed,
    a_bound_tool_is_called_and_answered, a_tool_call_is_streamed, errors_are_openais,
    a_refused_stream_is_openais_error, structured_output_is_streamed, leaving_a_stream_cancels_its_job,
    a_cancelled_task_cancels_its_job, the_older_completions_work,
)  # fmt: skip
