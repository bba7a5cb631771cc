"""Wire format of each family of streams, apart from its chunks: server-sent events, or JSON by lines (NDJSON)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from api.gate.errors import messages_error, ollama_error, openai_error
from api.jobs import sse
from common.errors import OmniError
from common.json_bytes import json_bytes

SSE_TYPE = "text/event-stream; charset=utf-8"
LINES_TYPE = "application/x-ndjson"
STREAM_HEADERS = MappingProxyType({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """Frames that are not chunks, and the SSE fields around the chunks."""

    failure: Callable[[OmniError, int], dict[str, Any]]  # the error, and the number of chunks before it -> error frame
    has_failure_chunks: bool = False  # a chunk reports that the job failed; else a frame of its own does
    names_events: bool = False  # each chunk's type is also its SSE event's name
    numbers_events: bool = False  # chunks have a `sequence_number`, so that resuming needs no `id:` lines
    is_lines: bool = False  # a chunk is a line of JSON, without ids
    ending: bytes = b""

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Content-Type": LINES_TYPE if self.is_lines else SSE_TYPE, **STREAM_HEADERS}

    def frame(self, chunk: dict[str, Any], number: int | None = None) -> bytes:
        """`number` becomes the `id:` of a server-sent event."""
        if self.is_lines:
            return json_bytes(chunk) + b"\n"
        return sse.frame(chunk, number, chunk["type"] if self.names_events else None)

    def notice(self, text: str, *, is_block: bool) -> bytes:
        """Something that clients skip. Before a line of JSON there may be white space, but no empty line."""
        return b" " if self.is_lines else sse.comment(text, is_block=is_block)


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


def _ollama_error(error: OmniError, _: int) -> dict[str, Any]:
    return ollama_error(error)


OPENAI = Dialect(_openai_error, ending=sse.DONE)
RESPONSES = Dialect(_response_error, has_failure_chunks=True, names_events=True, numbers_events=True)
ANTHROPIC = Dialect(_messages_error, names_events=True)
OLLAMA = Dialect(_ollama_error, is_lines=True)
