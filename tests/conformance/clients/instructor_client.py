"""instructor: typed answers by its two most used modes."""

import asyncio
from typing import Any

import instructor
import openai
from checks import HELLO, KEY, LONG, MODEL, URL, leaving, run
from instructor.core import InstructorRetryException
from pydantic import BaseModel, Field

MESSAGES: Any = [{"role": "user", "content": HELLO}]


class Place(BaseModel, extra="forbid"):
    """A place."""

    city: str = Field(max_length=20)
    country: str = Field(max_length=20)


def client(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0), mode=mode)


def create(mode: instructor.Mode) -> None:
    answer = client(mode).create(
        model=MODEL, messages=[{"role": "user", "content": HELLO}], response_model=Place, max_tokens=800, max_retries=1
    )
    assert isinstance(answer, Place)


def tools_give_a_typed_answer() -> None:
    create(instructor.Mode.TOOLS)


def a_json_schema_gives_a_typed_answer() -> None:
    create(instructor.Mode.JSON_SCHEMA)


def a_partial_answer_is_streamed() -> None:
    parts = list(
        client(instructor.Mode.TOOLS).create_partial(
            model=MODEL, messages=[{"role": "user", "content": HELLO}], response_model=Place, max_tokens=800
        )
    )
    assert parts[-1].city is not None and parts[-1].country is not None


def a_schemas_partial_answer_is_streamed() -> None:
    parts = list(
        client(instructor.Mode.JSON_SCHEMA).create_partial(
            model=MODEL, messages=MESSAGES, response_model=Place, max_tokens=800
        )
    )
    assert parts[-1].city is not None and parts[-1].country is not None


def the_completion_comes_with_its_usage() -> None:
    _, completion = client(instructor.Mode.TOOLS).create_with_completion(
        model=MODEL, messages=MESSAGES, response_model=Place, max_tokens=800
    )
    assert completion.usage.completion_tokens > 0


def an_error_is_openais() -> None:
    for is_stream in (False, True):
        try:
            answer = client(instructor.Mode.TOOLS).create(
                model="gpt-4o", messages=MESSAGES, response_model=instructor.Partial[Place] if is_stream else Place,
                max_retries=0, stream=is_stream,
            )  # fmt: skip
            list(answer)
        except (openai.NotFoundError, InstructorRetryException) as error:
            assert "gpt-4o" in str(error)
            continue
        raise AssertionError("an unknown model was taken")


def a_cancelled_task_cancels_its_job() -> None:
    class Numbers(BaseModel):
        """Many numbers."""

        numbers: list[int] = Field(min_length=600, max_length=600)

    async def leave() -> None:
        openai_client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
        asked = instructor.from_openai(openai_client, mode=instructor.Mode.JSON_SCHEMA).create(
            model=MODEL, messages=MESSAGES, response_model=Numbers, max_tokens=LONG["max_tokens"]
        )
        task = asyncio.create_task(asked)
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.1)  # the loop closes the connection

    with leaving():
        asyncio.run(leave())


run(
    tools_give_a_typed_answer, a_json_schema_gives_a_typed_answer, a_partial_answer_is_streamed,
    a_schemas_partial_answer_is_streamed, the_completion_comes_with_its_usage, an_error_is_openais,
    a_cancelled_task_cancels_its_job,
)  # fmt: skip
