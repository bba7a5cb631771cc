"""How each family of streams looks on the wire, beside its chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api.gate.errors import error_body, messages_error
from api.jobs import sse
from common.errors import OmniError


@dataclass(frozen=True, slots=True)
class Dialect:
    """Frames that are not chunks, and what surrounds the chunks."""

    failure: Callable[[OmniError, int], dict[str, Any]]  # of an error, after so many chunks
    has_failure_chunks: bool = False  # a chunk reports that the job failed; else a frame of its own does
    names_events: bool = False  # each chunk's type is also its SSE event's name
    numbers_events: bool = False  # chunks have a `sequence_number`, so that resuming needs no `id:` lines
    ending: bytes = b""


def _openai_error(error: OmniError, _: int) -> dict[str, Any]:
    return error_body(error.code, error.message, error.param)


def _response_error(error: OmniError, num_chunks: int) -> dict[str, Any]:
    """The documented event, and the same under `error`, as OpenAI's server sends it and its SDKs raise it.

    Its number is that of the last event before it, after which a caller can go on.
    """
    said = {"code": error.code, "message": error.message, "param": error.param}  # a code is a text here
    nested = _openai_error(error, num_chunks)["error"] | said
    return {"type": "error", "sequence_number": max(num_chunks - 1, 0), **said, "error": nested}


def _messages_error(error: OmniError, _: int) -> dict[str, Any]:
    return messages_error(error)


OPENAI = Dialect(_openai_error, ending=sse.DONE)
RESPONSES = Dialect(_response_error, has_failure_chunks=True, names_events=True, numbers_events=True)
ANTHROPIC = Dialect(_messages_error, names_events=True)
