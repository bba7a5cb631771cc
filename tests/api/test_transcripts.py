"""Whole streams, compared byte for byte with golden/ and parsed with the types of OpenAI's own client.

The files in golden/ are what was read and found right; the client's types are generated from OpenAI's published spec.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from flask import Flask, Response, request
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from api.chat.chunks import ChatChunks, ChatMeta
from api.completions.chunks import CompletionChunks, CompletionMeta, ShownPrompt
from api.jobs.answers import Answer
from api.jobs.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect
from api.jobs.hub import EventHub
from api.messages.chunks import MessageChunks, MessageMeta
from api.prompt.encoder import PromptEncoder
from api.reading.choice import ParseOptions
from api.responses.chunks import ResponseChunks, ResponsesMeta
from api.schema.answers import TextAnswer
from common.errors import Conflict
from common.redis.job_log import LogEntry
from common.wire import Delta, Event, Failed, Finished, TokenLogprob
from tests.api.events import log

GOLDEN = Path(__file__).parent / "golden"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
PATCH = '<tool_call>\n{"name": "patch", "arguments": {"input": "*** Begin\\n+a"}}\n</tool_call>'
THOUGHT = "<think>Hm.</think>Four."
ECHO: dict[str, Any] = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
TOOLS = ParseOptions(tool_dialect="hermes", stop_token_ids=(258,))
FAILED: list[Event] = [Delta(0, (65,), "Ha"), Failed("out_of_memory", "CUDA out of memory")]
LIKELY: list[Event] = [
    Delta(0, (39,), "H", (TokenLogprob(39, -0.5, ((39, -0.5), (40, -1.5))),)),
    Delta(0, (72, 258), "i", (TokenLogprob(72, -0.25), TokenLogprob(258, -0.125)), "stop"),
    Finished(7, 3),
]


@dataclass(frozen=True, slots=True)
class Transcript:
    """A formatter and its input: one log per job."""

    chunks: Callable[[PromptEncoder], Any]
    logs: list[list[Event]]
    dialect: Dialect = OPENAI
    shape: Any = ChatCompletionChunk


def chat(events: list[Event], **changes: Any) -> Transcript:
    form = ChatMeta(**{"id": "chatcmpl-1", "model": "tiny", "created": 5} | changes)
    return Transcript(lambda encoder: ChatChunks(form, encoder), [events])


def text(*logs: list[Event], echo: str | None = None, **changes: Any) -> Transcript:
    prompts = (ShownPrompt(echo),) * len(logs)
    meta = CompletionMeta(**{"id": "cmpl-1", "model": "tiny", "created": 5} | changes, prompts=prompts)
    return Transcript(
        lambda encoder: CompletionChunks(meta, encoder),
        list(logs),
        shape=TextAnswer,  # the published one has no null for a choice that goes on, but streams have it
    )


def response(events: list[Event], **changes: Any) -> Transcript:
    fields = {"id": "resp_1", "model": "tiny", "created": 5, "store": True, "background": False}
    form = ResponsesMeta(**fields | {"echo": ECHO, "input": [], "context": []} | changes)
    return Transcript(lambda encoder: ResponseChunks(form, encoder), [events], RESPONSES, ResponseStreamEvent)


def message(events: list[Event], **changes: Any) -> Transcript:
    fields = {"id": "msg_1", "model": "tiny", "created": 5, "num_prompt_tokens": 7, "stop": []}
    form = MessageMeta(**fields | changes)
    return Transcript(lambda encoder: MessageChunks(form, encoder), [events], ANTHROPIC, dict[str, Any])


TRANSCRIPTS = {
    "chat_text": chat(log("Hello")),
    "chat_usage": chat(log("Hello"), include_usage=True),
    "chat_logprobs": chat(LIKELY, logprobs=True),
    "chat_tool": chat(log(CALL, step=9), reading=TOOLS),
    "chat_thought": chat(log(THOUGHT, step=6), include_usage=True),
    "chat_failed": chat(FAILED),
    "text_usage": text(log("Hello"), include_usage=True),
    "text_logprobs": text(LIKELY, logprobs=True),
    "text_prompts": text(log("one"), log("two"), echo="Say "),
    "response_text": response(log("Hello")),
    "response_tool": response(log(CALL, step=9), reading=TOOLS),
    "response_thought": response(log(THOUGHT, step=6)),
    "response_summary": response(log(THOUGHT, step=6), echo=ECHO | {"reasoning": {"effort": None, "summary": "auto"}}),
    "response_failed": response(FAILED),
    "response_custom": response(
        log(PATCH, step=12), reading=ParseOptions(tool_dialect="hermes", stop_token_ids=(258,), custom_tools=("patch",))
    ),
    "response_namespace": response(
        log(CALL, step=60), reading=TOOLS, calls={"add": {"namespace": "sums", "name": "add"}}, num_dropped=2
    ),
    "message_text": message(log("Hello")),
    "message_tool": message(log(CALL, step=9), reading=TOOLS),
}


class Logs:
    """The jobs' logs, each cut off after `num_shown` entries."""

    def __init__(self, transcript: Transcript, num_shown: int = 10**6) -> None:
        self.num_shown = num_shown
        self.of = {
            f"job-{number}": [LogEntry(seq, event) for seq, event in enumerate(events, 1)]
            for number, events in enumerate(transcript.logs)
        }

    @property
    def log(self) -> "Logs":
        return self

    def entries(self, job_id: str, after: int = 0, count: int | None = None) -> list[LogEntry]:
        return [row for row in self.of[job_id][: self.num_shown] if row.seq > after][:count]

    def cancel(self, *_: Any, **__: Any) -> str:
        return ""


def opened(
    transcript: Transcript, encoder: PromptEncoder, logs: Logs, after: int = 0, *, with_ids: bool = True
) -> Response:
    """The stream that Answer sends for these logs."""
    service: Any = SimpleNamespace(store=logs, hub=EventHub(logs, None))  # type: ignore[arg-type]
    with Flask("test").test_request_context():
        answer = Answer(service, request, *logs.of, is_background=True)
        answer.is_new = False
        return answer.stream(transcript.chunks(encoder), transcript.dialect, after=after, with_ids=with_ids)


def streamed(transcript: Transcript, encoder: PromptEncoder, after: int = 0, *, with_ids: bool = True) -> str:
    return opened(transcript, encoder, Logs(transcript), after, with_ids=with_ids).get_data(as_text=True)


def frames_of(stream: str) -> list[str]:
    return stream.removesuffix("\n\n").split("\n\n")


def published(shape: Any, chunk: dict[str, Any]) -> Any:
    """The type of one event; of a union, the member with the event's own name."""
    if shape is not ResponseStreamEvent:
        return shape
    members = get_args(get_args(shape)[0])
    return next(member for member in members if get_args(member.model_fields["type"].annotation) == (chunk["type"],))


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_stream_is_what_was_found_right(name: str, encoder: PromptEncoder) -> None:
    assert streamed(TRANSCRIPTS[name], encoder) == (GOLDEN / f"{name}.sse").read_text()


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_client_that_did_not_ask_for_ids_gets_the_same_frames_without_them(name: str, encoder: PromptEncoder) -> None:
    plain = streamed(TRANSCRIPTS[name], encoder, with_ids=False)
    assert plain == re.sub(r"^id: \d+\n", "", (GOLDEN / f"{name}.sse").read_text(), flags=re.MULTILINE)
    assert TRANSCRIPTS[name].dialect is not OPENAI or all(frame.startswith("data: ") for frame in frames_of(plain))


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_stream_is_not_resumed_after_a_frame_that_was_never_sent(name: str, encoder: PromptEncoder) -> None:
    num_numbered = streamed(TRANSCRIPTS[name], encoder).count("\nid: ") + (TRANSCRIPTS[name].dialect is OPENAI)
    with pytest.raises(Conflict) as refused:
        streamed(TRANSCRIPTS[name], encoder, num_numbered + 1)
    assert (refused.value.code, refused.value.param) == ("stream_rewound", "starting_after")
    assert f"ended with {num_numbered} events" in refused.value.message


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_stream_resumed_beyond_its_log_waits_for_it(name: str, encoder: PromptEncoder) -> None:
    frames = streamed(TRANSCRIPTS[name], encoder).split("\n\n")
    for after in range(1, sum("id: " in frame for frame in frames) + 1):
        logs = Logs(TRANSCRIPTS[name], num_shown=0)
        pieces = opened(TRANSCRIPTS[name], encoder, logs, after).iter_encoded()
        seen = next(pieces)
        logs.num_shown = 10**6
        assert (seen + b"".join(pieces)).decode().split("\n\n") == frames[after:]


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_job_that_ends_before_the_point_of_resumption_is_an_error_in_the_stream(
    name: str, encoder: PromptEncoder
) -> None:
    whole = streamed(TRANSCRIPTS[name], encoder)
    logs = Logs(TRANSCRIPTS[name], num_shown=0)
    pieces = opened(TRANSCRIPTS[name], encoder, logs, whole.count("id: ") + 1).iter_encoded()
    assert next(pieces) == b""
    logs.num_shown = 10**6
    error, *ending = [frame for frame in b"".join(pieces).decode().split("\n\n") if frame]
    assert "fewer events than 'starting_after'" in error and "error" in error and "id: " not in error
    assert ending == [frame for frame in [TRANSCRIPTS[name].dialect.ending.decode().strip()] if frame]


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_stream_has_the_shapes_that_openai_publishes(name: str, encoder: PromptEncoder) -> None:
    for frame in streamed(TRANSCRIPTS[name], encoder).split("\n\n"):
        data = frame.partition("data: ")[2]
        if data and data != "[DONE]" and "error" not in (chunk := json.loads(data)):
            shape = TypeAdapter(published(TRANSCRIPTS[name].shape, chunk))
            shape.validate_json(data, strict=True)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_stream_continues_after_any_of_its_frames(name: str, encoder: PromptEncoder) -> None:
    frames = streamed(TRANSCRIPTS[name], encoder).split("\n\n")
    num_numbered = sum("id: " in frame for frame in frames)
    for after in range(num_numbered + 1):
        assert streamed(TRANSCRIPTS[name], encoder, after).split("\n\n") == frames[after:]


def test_a_stream_s_headers_do_not_wait_for_its_first_event(encoder: PromptEncoder) -> None:
    service: Any = SimpleNamespace(store=None, hub=EventHub(None, None))  # type: ignore[arg-type]
    with Flask("test").test_request_context():
        answer = Answer(service, request, "job-1", is_background=True)
        stream = answer.stream(TRANSCRIPTS["chat_usage"].chunks(encoder))
        assert next(stream.iter_encoded()) == b""  # with the first piece, also an empty one, gunicorn sends the headers
