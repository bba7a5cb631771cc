"""The one way to serve an answer: enqueue() or reopen() its jobs, then respond().

A new request: respond(enqueue(call, ENDPOINT, prepare(call))). An earlier one: fetch(service, http, stored(...)).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, get_args

from flask import Request, Response, after_this_request, jsonify

from api.gate.auth import Caller
from api.gate.notes import note_enqueued, note_refused
from api.gate.tracing import traceparent
from api.jobs.answers import Answer
from api.jobs.archive.answers import archived, decoder_of
from api.jobs.archive.changes import cancel_jobs
from api.jobs.call import Call
from api.jobs.endpoint import CANCELLED, AnswerProgress, Endpoint, ProgressStatus
from api.jobs.events import Log
from api.jobs.generation import submit_all
from api.jobs.service import Service
from api.jobs.waiting.place import wait_of
from api.reading.choice import TokenDecoder
from api.request.response_meta import ResponseMeta, job_ids
from api.request.submission import MetaT, Prepared, QueueOptions, Sender, submissions
from common.errors import InvalidRequest, JobFailed, KeyLimited, NotFound
from common.redis.job_view import JobView
from common.wire import EndState, JobState

ENDED: tuple[JobState, ...] = get_args(EndState)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The way the client receives the answer. By default: one body, when the jobs have ended."""

    stream: bool = False
    after: int = 0  # chunks that the client has already received
    with_ids: bool = False  # the stream has `id:` lines
    progress: AnswerProgress | None = None  # respond at once with this instead
    failure_is_body: bool = False  # the body of a failed job reports the failure; otherwise an error is raised


@dataclass(frozen=True, slots=True)
class PendingAnswer(Generic[MetaT]):
    """The jobs of one answer, and a client that waits for them."""

    endpoint: Endpoint[MetaT]
    answer: Answer
    meta: MetaT
    decoder: TokenDecoder
    delivery: Delivery

    def body(self) -> dict[str, Any]:
        """Wait for the end of the jobs. Raises JobFailed, ClientGone, or Restarting."""
        completion = self.endpoint.completion(self.meta, self.decoder)
        self.answer.fold(completion)
        if completion.failed is not None and not self.delivery.failure_is_body:
            raise JobFailed(completion.failed.message, code=completion.failed.code)
        return completion.body()

    def stream(self) -> Response:
        """SSE from the first chunk after `delivery.after`. Raises StreamRewound when the jobs ended before that."""
        assert self.endpoint.chunks is not None
        chunks = self.endpoint.chunks(self.meta, self.decoder)
        delivery = self.delivery
        return self.answer.stream(chunks, self.endpoint.dialect, after=delivery.after, with_ids=delivery.with_ids)


@dataclass(frozen=True, slots=True)
class StoredAnswer(Generic[MetaT]):
    """An earlier answer, as its jobs in Redis or its row in the store describe it."""

    endpoint: Endpoint[MetaT]
    jobs: list[JobView]
    meta: MetaT
    log: Log | None = None  # of one that was read from the store

    @property
    def has_ended(self) -> bool:
        return all(job.state in ENDED for job in self.jobs)

    @property
    def progress(self) -> AnswerProgress:
        if any(job.state == "cancelled" or job.cancel_code in CANCELLED for job in self.jobs):
            return AnswerProgress("cancelled", sum(job.num_tokens for job in self.jobs), wait_of(self.jobs[0]))
        status: ProgressStatus = "queued" if all(job.state == "queued" for job in self.jobs) else "in_progress"
        return AnswerProgress(status, sum(job.num_tokens for job in self.jobs), wait_of(self.jobs[0]))


def enqueue(call: Call[Any], endpoint: Endpoint[MetaT], prepared: Prepared[MetaT]) -> PendingAnswer[MetaT]:
    """Enqueue all jobs, or find those that the Idempotency-Key was used for before."""
    if call.caller.batch:
        prepared = of_batch(prepared)
    service, meta, options = call.service, prepared.meta, prepared.options
    ids = [request.id for request in prepared.requests]
    answer = Answer(service, call.http, *ids, is_background=options.background)
    try:
        enqueued = submit_all(service.store, submissions(prepared, endpoint.kind, call.encoder.card, sender_of(call)))
        note_enqueued(enqueued)
        if enqueued.job_id != meta.id:
            found = stored(service, call.caller, endpoint, enqueued.job_id)
            answer.attach(*(job.id for job in found.jobs), log=found.log)
            meta = found.meta
    except KeyLimited as refused:
        answer.close()
        note_refused(refused.quota, refused.retry_after_s)
        raise
    except BaseException:
        answer.close()
        raise
    identify(meta)
    delivery = Delivery() if call.caller.batch else new_delivery(call, meta, options)
    return PendingAnswer(endpoint, answer, meta, call.encoder, delivery)


def of_batch(prepared: Prepared[MetaT]) -> Prepared[MetaT]:
    """A line of a batch: nobody's disconnecting ends it, and it is answered by its whole body.

    Raises InvalidRequest when it asks for a stream.
    """
    if prepared.options.stream:
        raise InvalidRequest("A line of a batch cannot be streamed; leave 'stream' out.", param="stream")
    return replace(prepared, options=replace(prepared.options, background=True))


def sender_of(call: Call[Any]) -> Sender:
    headers = call.http.headers
    return Sender(
        owner=call.caller.owner,
        raw=call.raw,
        idempotency_key=headers.get("Idempotency-Key", ""),
        read_timeout=headers.get("x-stainless-read-timeout") or headers.get("x-stainless-timeout", ""),  # Python, Node
        traceparent=traceparent(),
        batch=call.caller.batch,
        tier=call.tier,
    )


def stored(service: Service, caller: Caller, endpoint: Endpoint[MetaT], answer_id: str) -> StoredAnswer[MetaT]:
    """From Redis, else from the store.

    Raises NotFound when the id is another key's or another endpoint's, or when one of the jobs is gone.
    """
    try:
        first, log = owned_job(service, caller, answer_id), None
    except NotFound:
        if not endpoint.is_archived:
            raise
        kept = archived(service, caller.owner, answer_id)
        if kept is None:
            raise NotFound(
                f"{answer_id[:64]!r} is not {endpoint.name} of this key, or not any more: results are kept for "
                f"{service.settings.limits.result_ttl / 3600:g} h after their end, stored ones for "
                f"{service.settings.store.ttl / 86400:g} days."
            ) from None
        first, log = kept.job, kept.log
    if first.form.get("kind") != endpoint.kind or first.form.get("id") != answer_id:
        raise NotFound(f"This id is not {endpoint.name}.")
    ids = job_ids(answer_id, endpoint.meta.num_jobs(first.form))
    return answer_of(endpoint, [first, *(owned_job(service, caller, job_id) for job_id in ids[1:])], log)


def answer_of(endpoint: Endpoint[MetaT], jobs: list[JobView], log: Log | None = None) -> StoredAnswer[MetaT]:
    forms = [{name: value for name, value in job.form.items() if name != "kind"} for job in jobs]
    return StoredAnswer(endpoint, jobs, endpoint.meta.from_forms(forms), log)


def owned_job(service: Service, caller: Caller, job_id: str, *, sees_all: bool = False) -> JobView:
    """Raises NotFound also for another key's job: ids belong to the key that made them. `sees_all`: for an admin."""
    job = service.store.jobs.get(job_id)
    if job is None or (job.owner != caller.owner and not sees_all):
        hours = service.settings.limits.result_ttl / 3600
        raise NotFound(
            f"There is no job {job_id[:64]!r} of this key; results are kept for {hours:g} h after their end."
        )
    return job


def reopen(
    service: Service, http: Request, found: StoredAnswer[MetaT], delivery: Delivery | None = None
) -> PendingAnswer[MetaT]:
    """Read an earlier answer again. Its jobs go on when this client disconnects."""
    decoder = decoder_of(service, found.jobs[0].queue, is_archived=found.log is not None)  # its adapter may be gone
    ids = [job.id for job in found.jobs]
    answer = Answer(service, http, *ids, is_background=True, is_new=False, log=found.log)
    return PendingAnswer(found.endpoint, answer, found.meta, decoder, delivery or Delivery())


def fetch(service: Service, http: Request, found: StoredAnswer[MetaT]) -> Response:
    """GET: the stream after the last chunk received, the whole answer, or its progress."""
    identify(found.meta)
    delivery = fetched_delivery(http, found)
    if delivery.progress is not None:
        return respond_early(found.endpoint, found.meta, delivery.progress)
    return respond(reopen(service, http, found, delivery))


def respond(pending: PendingAnswer[Any]) -> Response:
    """The HTTP response: a stream, the whole answer or, for a background request, its progress."""
    if pending.delivery.progress is not None and not pending.delivery.stream:
        pending.answer.close()
        return respond_early(pending.endpoint, pending.meta, pending.delivery.progress)
    try:
        return pending.stream() if pending.delivery.stream else jsonify(pending.body())
    except BaseException:
        pending.answer.close()
        raise


def respond_early(endpoint: Endpoint[MetaT], meta: MetaT, progress: AnswerProgress) -> Response:
    """The progress of the jobs, which go on without a client."""
    assert endpoint.unfinished is not None
    body, status = endpoint.unfinished(meta, progress)
    response = jsonify(body)
    response.status_code = status
    return response


def identify(meta: ResponseMeta) -> None:
    """Put the job's id into the header of this request's response, also when it is an error."""

    @after_this_request
    def stamp(response: Response) -> Response:
        response.headers["Omni-Job-Id"] = meta.id
        return response


def new_delivery(call: Call[Any], meta: ResponseMeta, options: QueueOptions) -> Delivery:
    """The delivery that the body of a new request asks for."""
    progress = None
    if options.background:
        job = call.service.store.jobs.get(job_ids(meta.id, 1)[0])
        progress = AnswerProgress(wait=wait_of(job))
    return Delivery(
        stream=options.stream,
        with_ids=options.event_ids or "Last-Event-ID" in call.http.headers,
        progress=progress,
    )


def cancel(service: Service, http: Request, find: Callable[[], StoredAnswer[MetaT]]) -> Response:
    """Cancel the jobs of the answer that `find` looks up. Responds with the whole answer if they had finished."""
    found = find()
    cancel_jobs(service, [job.id for job in found.jobs])
    found = find()
    identify(found.meta)
    if found.endpoint.dialect.has_failure_chunks and found.has_ended:
        return respond(reopen(service, http, found, Delivery(failure_is_body=True)))
    if all(job.state == "finished" for job in found.jobs):
        return respond(reopen(service, http, found))
    response = respond_early(found.endpoint, found.meta, found.progress)
    response.status_code = 200
    return response


def fetched_delivery(http: Request, found: StoredAnswer[Any]) -> Delivery:
    """The delivery that a GET asks for. Raises InvalidRequest for a query that is not valid."""
    dialect = found.endpoint.dialect
    if wants_stream(http):
        if dialect.numbers_events:  # from 0: after number 4 the client has received 5 events
            after = starting_after(http) + bool(http.args.get("starting_after"))
            return Delivery(stream=True, after=after, with_ids="Last-Event-ID" in http.headers)
        return Delivery(stream=True, after=starting_after(http), with_ids=True)
    is_early = found.endpoint.unfinished is not None and not found.has_ended
    return Delivery(progress=found.progress if is_early else None, failure_is_body=dialect.has_failure_chunks)


def wants_stream(http: Request) -> bool:
    """The query's `stream`, or the `Accept` header. Raises InvalidRequest for another `stream` than true or false."""
    stream = http.args.get("stream", "false")
    if stream not in ("true", "false"):
        raise InvalidRequest("'stream' must be true or false.", param="stream")
    return stream == "true" or "text/event-stream" in http.headers.get("Accept", "")


def starting_after(http: Request) -> int:
    """Number of the last chunk received: the query's `starting_after`, else `Last-Event-ID`, which browsers send."""
    name = "starting_after" if http.args.get("starting_after") else "Last-Event-ID"
    text = http.args.get("starting_after") or http.headers.get("Last-Event-ID") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequest(f"'{name}' must be the id of a chunk: a whole number.", param=name)
    return int(text)
