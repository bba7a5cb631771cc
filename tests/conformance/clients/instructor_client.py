"""instructor: typed answers by its two most used modes."""

import instructor
import openai
from checks import HELLO, KEY, MODEL, URL, run
from pydantic import BaseModel, Field


class Place(BaseModel):
    """A place."""

    city: str = Field(max_length=20)
    country: str = Field(max_length=20)


def client(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0), mode=mode)


def create(mode: instructor.Mode) -> None:
    answer = client(mode).create(
        model=MODEL, messages=[{"role": "user", "content": HELLO}], response_model=Place, max_tokens=120, max_retries=1
    )
    assert isinstance(answer, Place)


def tools_give_a_typed_answer() -> None:
    create(instructor.Mode.TOOLS)


def a_json_schema_gives_a_typed_answer() -> None:
    create(instructor.Mode.JSON_SCHEMA)


def a_partial_answer_is_streamed() -> None:
    parts = list(
        client(instructor.Mode.TOOLS).create_partial(
            model=MODEL, messages=[{"role": "user", "content": HELLO}], response_model=Place, max_tokens=120
        )
    )
    assert parts[-1].city is not None and parts[-1].country is not None


run(tools_give_a_typed_answer, a_json_schema_gives_a_typed_answer, a_partial_answer_is_streamed)
