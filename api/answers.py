"""A job's events -> an HTTP answer: an SSE stream or one JSON body. Also decides what a caller's leaving means."""

import logging
from collections.abc import Iterator
from itertools import count
from typing import Any, Protocol

from flask import Request, Response
from redis.exceptions import RedisError

from api import sse
from api.client_watch import watching
from api.dialects import OPENAI, Dialect
from api.generation import ClientGone, Closing, Notice, Queued, events
from api.hub import Reader
from api.service import Service
from common.errors import JobFailed, OmniError, Unavailable
from common.store import Row
from common.wire import Event, Failed

logger = logging.getLogger("omni.api")

RESUME_MS = 1000
SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class Chunks(Protocol):
    """Events to chunks, in log order from the first event."""

    def opening(self) -> list[dict[str, Any]]:
        """What can be said before anything has happened."""
        ...

    def feed(self, event: Event) -> list[dict[str, Any]]: ...


class Completion(Protocol):
    """Events folded into one body."""

    @property
    def failed(self) -> Failed | None: ...

    def feed(self, event: Event) -> None: ...

    def body(self) -> dict[str, Any]: ...


class Answer:
    """One caller's wait for one job, or for several read one after the other.

    Open it before the job is submitted, so that nothing is missed.
    """

    def __init__(self, service: Service, request: Request, *job_ids: str, is_background: bool) -> None:
        self.service = service
        self.client = request.environ.get("gunicorn.socket")
        self.is_background = is_background
        self.readers: list[Reader] = [service.hub.open(job_id) for job_id in job_ids]
        self.is_new = True

    @property
    def job_id(self) -> str:
        """The id by which the whole answer is known."""
        return self.readers[0].job_id

    def follow(self, *job_ids: str) -> None:
        """Read other jobs instead: those that an Idempotency-Key already stands for, or that are to be resumed."""
        self.give_up()
        self.readers = [self.service.hub.open(job_id) for job_id in job_ids]
        self.is_new = False

    def give_up(self) -> None:
        """Nobody waits here: the job was never accepted, or is fetched later."""
        for reader in self.readers:
            self.service.hub.close(reader)

    def stream(self, chunks: Chunks, after: int = 0, dialect: Dialect = OPENAI) -> Response:
        """SSE of all chunks with a number above `after`."""
        headers = SSE_HEADERS | {"Omni-Job-Id": self.job_id}
        return Response(self._frames(chunks, after, dialect), headers=headers)

    def body(self, completion: Completion) -> dict[str, Any]:
        """Wait for the end. Raises JobFailed, ClientGone, or Unavailable when this process is leaving."""
        self.fold(completion)
        if completion.failed is not None:
            raise JobFailed(completion.failed.message, code=completion.failed.code)
        return completion.body()

    def fold(self, completion: Completion) -> None:
        """The same, but a failed job is told by `completion.failed` only."""
        try:
            with watching(self.client, self._client_gone):
                for item in self._events():
                    if isinstance(item, Row):
                        completion.feed(item.event)
                    elif isinstance(item, Closing):
                        raise Unavailable("This server is restarting; the job goes on and can be fetched by its id.")
        except ClientGone:
            self._cancel_if_alone()
            raise
        finally:
            self.give_up()

    def _frames(self, chunks: Chunks, after: int, dialect: Dialect) -> Iterator[bytes]:
        is_left = True
        try:
            with watching(self.client, self._client_gone):
                yield from self._numbered(chunks, after, dialect)
                is_left = False
        except ClientGone:
            pass
        finally:
            if is_left and not self.readers[0].is_closing:
                self._cancel_if_alone()
            self.give_up()

    def _numbered(self, chunks: Chunks, after: int, dialect: Dialect) -> Iterator[bytes]:
        numbers = count(1)

        def frames(said: list[dict[str, Any]]) -> bytes:  # of one event together: each write wakes the caller
            return b"".join(
                sse.frame(chunk, number, chunk["type"] if dialect.names_events else None)
                for chunk, number in zip(said, numbers, strict=False)
                if number > after
            )

        try:
            yield frames(chunks.opening())  # even if it is empty: the headers leave with it
            for item in self._events():
                if isinstance(item, Row):
                    yield frames(chunks.feed(item.event))
                    if isinstance(item.event, Failed) and dialect.tells_failed_jobs:
                        yield self._failure(dialect, JobFailed(item.event.message, code=item.event.code))
                    continue
                yield self._notice(item)
                if isinstance(item, Closing):
                    return
        except OmniError as error:
            yield self._failure(dialect, error)
        if dialect.ending:
            yield dialect.ending

    @staticmethod
    def _failure(dialect: Dialect, error: OmniError) -> bytes:
        frame = dialect.failure(error)
        return sse.frame(frame, event=frame["type"] if dialect.names_events else None)

    def _notice(self, notice: Notice) -> bytes:
        if isinstance(notice, Queued):
            seconds = notice.position * self.service.hub.seconds_per_place
            return sse.comment(f"queued position={notice.position + 1} eta={round(seconds)}")
        return sse.retry(RESUME_MS) if isinstance(notice, Closing) else sse.comment("keep-alive")

    def _events(self) -> Iterator[Row | Notice]:
        """All jobs' events, one job after the other, up to the first failure, which ends the rest."""
        for number, reader in enumerate(self.readers, 1):
            for item in events(self.service.store, reader, 0, is_new=self.is_new):
                yield item
                if isinstance(item, Closing):
                    return
                if isinstance(item, Row) and isinstance(item.event, Failed):
                    for other in self.readers[number:]:
                        self._cancel(other.job_id, "cancelled", "Another prompt of the same request failed.")
                    return

    def _client_gone(self) -> None:
        for reader in self.readers:
            reader.client_gone()

    def _cancel_if_alone(self) -> None:
        """The caller left: jobs that nobody else reads here are ended, unless they were asked to go on alone."""
        if self.is_background:
            return
        for reader in self.readers:
            if self.service.hub.close(reader):
                self._cancel(reader.job_id, "client_gone", "The caller closed the connection.")

    def _cancel(self, job_id: str, code: str, message: str) -> None:
        try:
            self.service.store.cancel(job_id, code=code, message=message)
        except RedisError as error:
            logger.warning(
                "a job could not be cancelled now (%s); it ends when its reader has been away for long", error
            )
