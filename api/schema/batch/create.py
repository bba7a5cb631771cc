"""/v1/batches, as OpenAI's clients send it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.schema.base import Base, Metadata

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
LONGEST_S = 24 * 3600


def window_s(window: str) -> int:
    """'30m' or '24h' in seconds. Raises ValueError."""
    number, unit = window[:-1], window[-1:]
    seconds = int(number) * {"m": 60, "h": 3600}[unit] if number.isdecimal() and unit in ("m", "h") else 0
    if not window.isascii() or not 60 <= seconds <= LONGEST_S:
        raise ValueError("must be '24h' or shorter, in minutes or hours, such as '30m' or '8h'")
    return seconds


def _checked_window(window: str) -> str:
    window_s(window)
    return window


class ExpiresAfter(Base):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=30 * 24 * 3600)


class BatchRequest(Base):
    input_file_id: str = Field(min_length=1, max_length=128)
    endpoint: Endpoint
    completion_window: Annotated[str, Field(max_length=8), AfterValidator(_checked_window)]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None
