"""Wire format of each family of streams, apart from its chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api.gate.errors import messages_error, openai_error
from api.jobs import sse
from common.errors import OmniError


@dataclass(frozen=True, slots=True)
class Dialect:
    """Frames that are not chunks, and the SSE fields around the chunks."""

    failure: Callable[[OmniError, int], dict[str, Any]]  # the error, and the number of chunks before it -> error frame
    has_failure_chunks: bool = False  # a chunk reports that the job failed; else a frame of its own does
    names_events: bool = False  # each chunk's type is also its SSE event's name
    numbers_events: bool = False  # chunks have a `sequence_number`, so that resuming needs no `id:` lines
    ending: bytes = b""


def _openai_error(error: OmniError, _: int) -> dict[str, Any]:
    return openai_error(error)


def _response_error(error: OmniError, num_chunks: int) -> dict[str, Any]:
    """The documented event, with the same fields under `error`, where OpenAI's SDKs look for them.

    Its `sequence_number` is that of the last event before it, after which a client can resume.
    """
    fields = {"code": error.code, "message": error.message, "param": error.param}  # `code` is a string here
    nested = _openai_error(error, num_chunks)["error"] | fields
    return {"type": "error", "sequence_number": max(num_chunks - 1, 0), **fields, "error": nested}


def _messages_error(error: OmniError, _: int) -> dict[str, Any]:
    return messages_error(error)


OPENAI = Dialect(_openai_error, ending=sse.DONE)
RESPONSES = Dialect(_response_error, has_failure_chunks=True, names_events=True, numbers_events=True)
ANTHROPIC = Dialect(_messages_error, names_events=True)
