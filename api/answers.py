"""A job's events -> an HTTP answer: an SSE stream or one JSON body. Also decides what a caller's leaving means."""

import logging
from collections.abc import Iterator
from typing import Any, Protocol

from flask import Request, Response
from redis.exceptions import RedisError

from api import sse
from api.client_watch import watching
from api.errors import error_body
from api.generation import ClientGone, Closing, Idle, Queued, events
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

    def feed(self, event: Event) -> list[dict[str, Any]]: ...


class Completion(Protocol):
    """Events folded into one body."""

    failed: Failed | None

    def feed(self, event: Event) -> None: ...

    def body(self) -> dict[str, Any]: ...


class Answer:
    """One caller's wait for one job. Open it before the job is submitted, so that nothing is missed."""

    def __init__(self, service: Service, request: Request, job_id: str, *, is_background: bool) -> None:
        self.service = service
        self.client = request.environ.get("gunicorn.socket")
        self.is_background = is_background
        self.reader: Reader = service.hub.open(job_id)
        self.is_new = True

    def follow(self, job_id: str) -> None:
        """Read another job instead: the one that an Idempotency-Key already stands for, or one to be resumed."""
        self.service.hub.close(self.reader)
        self.reader = self.service.hub.open(job_id)
        self.is_new = False

    def give_up(self) -> None:
        """The job was never accepted."""
        self.service.hub.close(self.reader)

    def stream(self, chunks: Chunks, after: int = 0) -> Response:
        """SSE of all chunks with a number above `after`."""
        headers = SSE_HEADERS | {"Omni-Job-Id": self.reader.job_id}
        return Response(self._frames(chunks, after), headers=headers)

    def body(self, completion: Completion) -> dict[str, Any]:
        """Wait for the end. Raises JobFailed, ClientGone, or Unavailable when this process is leaving."""
        try:
            with watching(self.client, self.reader.client_gone):
                for item in events(self.service.store, self.reader, 0, is_new=self.is_new):
                    if isinstance(item, Row):
                        completion.feed(item.event)
                    elif isinstance(item, Closing):
                        raise Unavailable("This server is restarting; the job goes on and can be fetched by its id.")
        except ClientGone:
            self._cancel_if_alone()
            raise
        finally:
            self.service.hub.close(self.reader)
        if completion.failed is not None:
            raise JobFailed(completion.failed.message, code=completion.failed.code)
        return completion.body()

    def _frames(self, chunks: Chunks, after: int) -> Iterator[bytes]:
        is_left = True
        try:
            with watching(self.client, self.reader.client_gone):
                yield from self._numbered(chunks, after)
                is_left = False
        except ClientGone:
            pass
        finally:
            if is_left and not self.reader.is_closing:
                self._cancel_if_alone()
            self.service.hub.close(self.reader)

    def _numbered(self, chunks: Chunks, after: int) -> Iterator[bytes]:
        number = 0
        try:
            for item in events(self.service.store, self.reader, 0, is_new=self.is_new):
                if not isinstance(item, Row):
                    yield self._notice(item)
                    if isinstance(item, Closing):
                        return
                    continue
                for chunk in chunks.feed(item.event):
                    number += 1
                    if number > after:
                        yield sse.frame(chunk, number)
                if isinstance(item.event, Failed):
                    yield sse.frame(error_body(item.event.code, item.event.message))
        except OmniError as error:
            yield sse.frame(error_body(error.code, error.message, error.param))
        yield sse.DONE

    def _notice(self, notice: Queued | Idle | Closing) -> bytes:
        if isinstance(notice, Queued):
            seconds = notice.position * self.service.hub.seconds_per_place
            return sse.comment(f"queued position={notice.position + 1} eta={round(seconds)}")
        return sse.retry(RESUME_MS) if isinstance(notice, Closing) else sse.comment("keep-alive")

    def _cancel_if_alone(self) -> None:
        """The caller left: a job that nobody else reads here is ended, unless it was asked to go on alone."""
        if self.is_background or not self.service.hub.close(self.reader):
            return
        try:
            self.service.store.cancel(
                self.reader.job_id, code="client_gone", message="The caller closed the connection."
            )
        except RedisError as error:
            logger.warning(
                "a job could not be cancelled now (%s); it ends when its reader has been away for long", error
            )
