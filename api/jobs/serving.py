"""From a prepared request to its HTTP answer, and back from a job's id: the same for every kind of answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flask import Request

from api.chat.chunks import ChatChunks, ChatCompletion, ChatForm
from api.chat.prepare import Prepared, submission
from api.gate.auth import Caller
from api.jobs.answers import Answer, Completion
from api.jobs.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect
from api.jobs.frames import Chunks
from api.jobs.generation import submit
from api.jobs.service import Service
from api.messages.chunks import MessageChunks, MessageCompletion, MessageForm
from api.prompt.encoder import PromptEncoder
from api.reading.choice import parse_options
from api.responses.chunks import ResponseChunks, ResponseCompletion, ResponseForm
from api.schema.base import StreamOptions
from api.schema.chat import ChatRequest
from common.errors import InvalidRequest, NotFound
from common.redis.job_view import JobView

ENDED = ("finished", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Kind:
    """How the answers of one endpoint are worded."""

    name: str  # for people
    form: Callable[..., Any]
    chunks: Callable[[Any, PromptEncoder], Chunks]
    completion: Callable[[Any, PromptEncoder], Completion]
    dialect: Dialect


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "chat": Kind("a chat completion", ChatForm, ChatChunks, ChatCompletion, OPENAI),
        "response": Kind("a response", ResponseForm, ResponseChunks, ResponseCompletion, RESPONSES),
        "message": Kind("a message", MessageForm, MessageChunks, MessageCompletion, ANTHROPIC),
    }
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the line, and the caller's wait for it."""

    answer: Answer
    form: Any
    encoder: PromptEncoder

    def stream(self, *, after: int = 0, with_ids: bool = False) -> Any:
        kind = KINDS[self.form.kind]
        chunks = kind.chunks(self.form, self.encoder)
        return self.answer.stream(chunks, kind.dialect, after=after, with_ids=with_ids)

    def completion(self) -> Completion:
        return KINDS[self.form.kind].completion(self.form, self.encoder)

    def body(self) -> dict[str, Any]:
        """Wait for the whole answer. Raises JobFailed."""
        return self.answer.body(self.completion())


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an answer is to be given: all that is needed of a request once it waits.

    Handlers keep this alone, because the rest may be large and the answer may take long.
    """

    stream: bool
    background: bool
    stream_options: StreamOptions | None = None


def wanted(body: Any) -> Wanted:
    return Wanted(bool(body.stream), bool(getattr(body, "background", False)), getattr(body, "stream_options", None))


def put_in_line(
    service: Service, request: Request, caller: Caller, body: ChatRequest, prepared: Prepared, form: Any,
    encoder: PromptEncoder, raw: Mapping[str, Any],
) -> Waiting:  # fmt: skip
    """A new job, or the one that the Idempotency-Key already stands for."""
    answer = Answer(service, request, form.id, is_background=bool(body.background))
    try:
        generation = prepared.request(form.id, body.model, caller)
        job = submission(generation, form, body, encoder, caller, request.headers, raw)
        job_id = submit(service.store, job)
        if job_id != form.id:
            answer.follow(job_id)
            form = form_of(owned_job(service, caller, job_id), form.kind)
    except BaseException:
        answer.give_up()
        raise
    return Waiting(answer, form, encoder)


def fetched(service: Service, request: Request, job: JobView, kind: str) -> Waiting:
    """An answer that is read again; the reader's leaving does not end it."""
    form = form_of(job, kind)
    encoder = service.models.encoder(form.model)
    answer = Answer(service, request, job.id, is_background=True)
    answer.is_new = False
    return Waiting(answer, form, encoder)


def owned_job(service: Service, caller: Caller, job_id: str) -> JobView:
    """Raises NotFound also for another key's job: ids belong to the key that made them."""
    job = service.store.jobs.get(job_id)
    if job is None or job.owner != caller.owner:
        hours = service.settings.result_ttl / 3600
        raise NotFound(
            f"There is no job {job_id[:64]!r} of this key; results are kept for {hours:g} h after their end."
        )
    return job


def form_of(job: JobView, kind: str) -> Any:
    """Raises NotFound for a job whose answer is worded in another way."""
    if job.form.get("kind") != kind:
        raise NotFound(f"This id is not {KINDS[kind].name}.")
    return KINDS[kind].form(**job.form | {"reading": parse_options(job.form["reading"])})


def wants_stream(request: Request) -> bool:
    return request.args.get("stream") == "true" or "text/event-stream" in request.headers.get("Accept", "")


def asks_for_ids(request: Request, options: StreamOptions | None = None) -> bool:
    """Whether a stream's reader resumes by numbers: only then are they sent, because plain readers trip over them."""
    return bool(options and options.include_event_ids) or "Last-Event-ID" in request.headers


def starting_after(request: Request, default: int = 0) -> int:
    """From where to resume: the query's `starting_after`, else the header that browsers send."""
    text = request.args.get("starting_after") or request.headers.get("Last-Event-ID") or str(default)
    if text != str(default) and not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequest("'starting_after' must be the id of a chunk: a whole number.", param="starting_after")
    return int(text)
