"""ollama for Python, synchronous and asynchronous."""

import json
from typing import Any

import httpx
import ollama
from checks import HELLO, KEY, MODEL, URL, WEATHER, leaving, run
from pydantic import BaseModel, Field

HEADERS = {"Authorization": f"Bearer {KEY}"}
SHORT = {"num_predict": 20, "temperature": 0}
MESSAGES = [{"role": "user", "content": HELLO}]
NS = 1e9

client = ollama.Client(host=URL, headers=HEADERS)


class Place(BaseModel):
    city: str = Field(max_length=20)
    is_large: bool


class ForcingTransport(httpx.HTTPTransport):
    """Adds our `tool_choice` to each request: the client has no field for it."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) | {"tool_choice": "required"}
        raw = json.dumps(body).encode()
        kept = {name: value for name, value in request.headers.items() if name != "content-length"}
        return super().handle_request(httpx.Request(request.method, request.url, headers=kept, content=raw))


forcing = ollama.Client(host=URL, headers=HEADERS, transport=ForcingTransport())


def a_chat_is_answered() -> None:
    answer = client.chat(MODEL, MESSAGES, options=SHORT)
    assert answer.message.content and answer.done and answer.done_reason in ("stop", "length")
    assert answer.prompt_eval_count and answer.eval_count and answer.eval_count <= 20
    assert answer.total_duration and answer.total_duration < 60 * NS and answer.eval_duration


def a_stream_is_the_same_answer_in_parts() -> None:
    *parts, last = client.chat(f"{MODEL}:latest", MESSAGES, options=SHORT, stream=True)
    text = "".join(part.message.content or "" for part in parts)
    assert text == client.chat(MODEL, MESSAGES, options=SHORT).message.content
    assert last.done and last.eval_count and not any(part.done for part in parts)


def a_tool_is_called_and_its_result_taken_back() -> None:
    def get_weather(city: str) -> str:
        """
        The weather in a city.

        Args:
          city: The city
        """
        return f"sunny in {city}"

    options = {"num_predict": 800}
    for tool in (WEATHER, get_weather):
        streamed = list(forcing.chat(MODEL, MESSAGES, tools=[tool], options=options, stream=True))
        called = [call for part in streamed for call in part.message.tool_calls or ()]
        assert called and all(isinstance(call.function.arguments["city"], str) for call in called)
    answer = forcing.chat(MODEL, MESSAGES, tools=[get_weather], options=options)
    [call, *_] = answer.message.tool_calls or []
    result = {"role": "tool", "tool_name": call.function.name, "content": get_weather(**call.function.arguments)}
    again = client.chat(MODEL, [*MESSAGES, answer.message, result], tools=[get_weather], options=SHORT)
    assert again.message.content or again.message.tool_calls


def thinking_is_apart_from_the_answer() -> None:
    """The demo model does not think, so its thought is begun for it."""
    begun: list[Any] = [*MESSAGES, {"role": "assistant", "content": "<think>\nWell,"}]
    answer = client.chat(MODEL, begun, think=True, options=SHORT)
    assert answer.message.thinking and not answer.message.content
    parts = list(client.chat(MODEL, begun, think="high", options=SHORT, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == answer.message.thinking
    assert not client.chat(MODEL, begun, think=False, options=SHORT).message.thinking


def a_format_is_kept_to() -> None:
    answer = client.chat(MODEL, MESSAGES, format=Place.model_json_schema(), options={"num_predict": 800})
    assert Place.model_validate_json(answer.message.content or "")
    answer = client.chat(MODEL, MESSAGES, format="json", options={"num_predict": 800, "temperature": 0})
    assert answer.done_reason == "length" or isinstance(json.loads(answer.message.content or ""), dict)


def a_prompt_is_completed() -> None:
    options = {**SHORT, "seed": 7, "stop": ["\n"], "num_ctx": 2048, "repeat_penalty": 1.1}
    answer = client.generate(MODEL, HELLO, system="Be kind.", options=options, keep_alive="5m")
    assert answer.response and answer.done
    parts = list(client.generate(MODEL, HELLO, system="Be kind.", options=options, stream=True))
    assert "".join(part.response or "" for part in parts) == answer.response
    raw = client.generate(MODEL, "Once upon a", raw=True, options=SHORT, logprobs=True, top_logprobs=2)
    assert raw.response and raw.logprobs and len(raw.logprobs[0].top_logprobs or ()) == 2


def what_is_served_is_listed_and_shown() -> None:
    names = [model.model for model in client.list().models]
    assert f"{MODEL}:latest" in names
    shown = client.show(MODEL)
    assert {"completion", "tools"} <= set(shown.capabilities or ()) and shown.template
    architecture = (shown.modelinfo or {})["general.architecture"]
    assert (shown.modelinfo or {})[f"{architecture}.context_length"] > 0
    [running] = [model for model in client.ps().models if model.model == f"{MODEL}:latest"]
    assert running.expires_at and running.context_length


def a_served_model_is_there_when_it_is_pulled() -> None:
    assert client.pull(MODEL).status == "success"
    assert [step.status for step in client.pull(MODEL, stream=True)][-1] == "success"
    assert client.chat(MODEL).done_reason == "load"
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"


def an_error_has_its_status_and_a_sentence() -> None:
    refused = {
        404: (
            lambda: client.chat("llama3.2", MESSAGES),
            lambda: list(client.chat("llama3.2", MESSAGES, stream=True)),
            lambda: client.pull("llama3.2"),
            lambda: client.embed(MODEL, "Hi"),  # this service has no encoder
        ),
        400: (lambda: client.chat(MODEL, MESSAGES, options={"temperature": 9}),),
        401: (lambda: ollama.Client(host=URL).list(),),
        405: (lambda: client.delete(MODEL), lambda: client.create("mine", from_=MODEL)),
    }
    for status, calls in refused.items():
        for call in calls:
            try:
                call()
            except ollama.ResponseError as error:
                assert error.status_code == status and error.error.endswith((".", "encoder", "server")), error.error
            else:
                raise AssertionError(f"not refused with {status}")


def leaving_a_stream_cancels_its_job() -> None:
    with leaving():
        for _ in client.chat(MODEL, MESSAGES, stream=True, options={"num_predict": -1, "temperature": 2}):
            break


async def the_asynchronous_client_streams_too() -> None:
    async_client = ollama.AsyncClient(host=URL, headers=HEADERS)
    stream = await async_client.chat(MODEL, MESSAGES, options=SHORT, stream=True)
    parts = [part async for part in stream]
    assert "".join(part.message.content or "" for part in parts) and parts[-1].done


run(
    a_chat_is_answered,
    a_stream_is_the_same_answer_in_parts,
    a_tool_is_called_and_its_result_taken_back,
    thinking_is_apart_from_the_answer,
    a_format_is_kept_to,
    a_prompt_is_completed,
    what_is_served_is_listed_and_shown,
    a_served_model_is_there_when_it_is_pulled,
    an_error_has_its_status_and_a_sentence,
    leaving_a_stream_cancels_its_job,
    the_asynchronous_client_streams_too,
)
