"""How each family of streams looks on the wire, beside its chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api import sse
from api.errors import error_body, messages_error
from common.errors import OmniError


@dataclass(frozen=True, slots=True)
class Dialect:
    """Frames that are not chunks, and what surrounds the chunks."""

    failure: Callable[[OmniError], dict[str, Any]]
    tells_failed_jobs: bool = True  # by a frame of their own; else the chunks have said it
    names_events: bool = False  # each chunk's type is also its SSE event's name
    ending: bytes = b""


def _response_error(error: OmniError) -> dict[str, Any]:
    return {"type": "error", "code": error.code, "message": error.message, "param": error.param}


OPENAI = Dialect(lambda error: error_body(error.code, error.message, error.param), ending=sse.DONE)
RESPONSES = Dialect(_response_error, tells_failed_jobs=False, names_events=True)
ANTHROPIC = Dialect(messages_error, names_events=True)
