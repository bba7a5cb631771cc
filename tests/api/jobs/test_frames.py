"""A stream that cannot continue ends with an error in its endpoint's format, for every cause."""

from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, request
from openai.types.responses import ResponseErrorEvent
from redis.exceptions import DataError, RedisError

from api.jobs.answers import Answer
from api.jobs.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect
from api.jobs.frames import Frames
from api.jobs.hub import EventHub
from common.errors import OmniError, Restarting, WireError
from common.redis.job_log import LogEntry
from common.wire import Delta, Event

CLOSING = Restarting("This server is restarting.")


class Counting:
    """Two chunks for each event."""

    def opening(self) -> list[dict[str, Any]]:
        return []

    def feed(self, event: Event) -> list[dict[str, Any]]:
        return [{"type": "one"}, {"type": "two"}]


class Broken(Counting):
    def feed(self, event: Event) -> list[dict[str, Any]]:
        raise ZeroDivisionError


def told(chunks: Any, entries: Any, dialect: Dialect = OPENAI) -> bytes:
    """All bytes that a stream sends for a log."""
    store = SimpleNamespace(log=SimpleNamespace(entries=entries))
    service: Any = SimpleNamespace(store=store, hub=EventHub(None, None))  # type: ignore[arg-type]
    with Flask("test").test_request_context():
        answer = Answer(service, request, "job-1", is_background=True, is_new=False)
        return answer.stream(chunks, dialect).get_data()


@pytest.mark.parametrize("dialect", [OPENAI, RESPONSES, ANTHROPIC])
def test_an_unexpected_failure_is_an_error_in_the_stream(dialect: Dialect) -> None:
    sent = told(Broken(), lambda *_, **__: [LogEntry(1, Delta(0, (65,), "A"))], dialect)
    assert b'"error":{"' in sent and b"unexpected way" in sent


@pytest.mark.parametrize("fault", [DataError("WRONGTYPE"), WireError("not ours")])
def test_a_log_that_cannot_be_read_is_an_error(fault: RedisError | OmniError) -> None:
    def entries(*_: Any, **__: Any) -> list[LogEntry]:
        raise fault

    assert b'data: {"error":{' in told(Counting(), entries)


def test_only_a_client_that_asked_for_ids_is_asked_to_reconnect() -> None:
    assert Frames(Counting(), OPENAI, with_ids=True).closing(CLOSING) == b"retry: 1000\n"
    plain = Frames(Counting(), OPENAI).closing(CLOSING)
    assert plain.startswith(b'data: {"error":{') and b'"code":"server_restarting"' in plain


def test_a_response_can_be_resumed_after_the_number_of_its_error() -> None:
    frames = Frames(Counting(), RESPONSES)
    frames.feed(Delta(0, (65,), "A"))
    said = frames.closing(CLOSING)
    assert said.startswith(b"event: error\ndata: ")
    event = ResponseErrorEvent.model_validate_json(said.partition(b"data: ")[2])
    assert (event.sequence_number, event.code) == (1, "server_restarting")  # 0 and 1 were said
