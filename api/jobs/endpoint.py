"""Endpoint: the classes that store, stream and fold one family's answers; one constant in each family's chunks.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol

from api.jobs.dialects import OPENAI, Dialect
from api.jobs.frames import Chunks
from api.reading.choice import TokenDecoder
from api.request.response_meta import ResponseMeta
from api.request.submission import MetaT
from common.errors import JobCancelled, ReaderGone
from common.wire import Event, Failed

CANCELLED = (JobCancelled.code, ReaderGone.code)  # codes of failures that somebody asked for
ProgressStatus = Literal["queued", "in_progress", "cancelled"]
Unfinished = tuple[dict[str, Any], int]  # body and HTTP status


class Completion(Protocol):
    """Folds a job's events into one body."""

    @property
    def failed(self) -> Failed | None: ...

    def feed(self, event: Event) -> object: ...

    def body(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class AnswerProgress:
    """Progress of an answer whose jobs have not ended."""

    status: ProgressStatus = "queued"
    num_tokens: int = 0
    wait: Mapping[str, Any] = field(default_factory=dict)  # its place, forecast, deadline and tier (place.wait_of)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[MetaT]):
    kind: str  # stored with each job
    name: str  # in refusals: "This id is not ..."
    meta: type[MetaT]
    completion: Callable[[MetaT, TokenDecoder], Completion]
    chunks: Callable[[MetaT, TokenDecoder], Chunks] | None = None  # None: never streamed
    dialect: Dialect = OPENAI
    unfinished: Callable[[MetaT, AnswerProgress], Unfinished] | None = None  # None: always answers with the end
    is_archived: bool = False  # answers may outlive Redis, in the store; they have one job each


def unfinished_completion(meta: ResponseMeta, progress: AnswerProgress, object_name: str) -> Unfinished:
    """OpenAI's completion object without choices, and how far it is."""
    body = {
        "id": meta.id,
        "object": object_name,
        "created": meta.created,
        "model": meta.model,
        "choices": [],
        "status": progress.status,
        "tokens": progress.num_tokens,
        **progress.wait,
    }
    return body, 202
