"""A job's events -> an HTTP answer: an SSE stream or one JSON body. Also decides what a caller's leaving means."""

import errno
import logging
from collections.abc import Iterator
from typing import Any

from flask import Request, Response
from redis.exceptions import RedisError

from api.gate.client_watch import watching
from api.gate.gunicorn_seams import client_socket
from api.jobs import sse
from api.jobs.dialects import OPENAI, Dialect
from api.jobs.endpoint import Completion
from api.jobs.frames import Chunks, Frames
from api.jobs.generation import REWOUND, ClientGone, Closing, Idle, Notice, Queued, events, logged
from api.jobs.hub import Reader
from api.jobs.service import Service
from common.errors import Conflict, OmniError, Restarting
from common.redis import keys
from common.redis.job_log import LogEntry
from common.wire import Failed, Finished

logger = logging.getLogger("omni.api")

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
FAULT = "The server failed in an unexpected way; its log says more."
SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class Answer:
    """One caller's wait for one job, or for several read one after the other.

    Open it before the job is submitted, so that nothing is missed. Raises Restarting when this process is leaving.
    """

    def __init__(
        self, service: Service, request: Request, *job_ids: str, is_background: bool, is_new: bool = True
    ) -> None:
        if service.hub.is_closing:
            raise Restarting("This server is restarting; send the request again.")
        self.service = service
        self.client: Any = client_socket(request.environ)
        self.takes_interim = request.environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        self.is_head = request.method == "HEAD"
        self.is_background = is_background
        self.readers: list[Reader] = [service.hub.open(job_id) for job_id in job_ids]
        self.is_new = is_new  # not submitted yet, so that nothing can have been missed
        self._at = (0, 0)  # the reader that is read first, and after which of its rows

    @property
    def job_id(self) -> str:
        """The id by which the whole answer is known."""
        return self.readers[0].job_id

    def attach(self, *job_ids: str) -> None:
        """Read other jobs instead: those that the Idempotency-Key was used for before."""
        self.close()
        self.readers = [self.service.hub.open(job_id) for job_id in job_ids]
        self.is_new = False

    def close(self) -> None:
        """Unsubscribe. The jobs go on."""
        for reader in self.readers:
            self.service.hub.close(reader)

    def stream(self, chunks: Chunks, dialect: Dialect = OPENAI, *, after: int = 0, with_ids: bool = False) -> Response:
        """SSE of all chunks with a number above `after`. Raises Conflict when the jobs ended before."""
        frames = Frames(chunks, dialect, after, with_ids=with_ids)
        try:
            first = frames.opening() + self._catch_up(frames)
        except BaseException:
            self.close()
            raise
        if self.is_head:  # no body is read, so the end of a stream would not be noticed
            self.close()
            return Response(headers=SSE_HEADERS)
        return Response(self._stream(frames, first), headers=SSE_HEADERS)

    def fold(self, completion: Completion) -> None:
        """Feed every event up to the end. Raises ClientGone, or Restarting when this process stops."""
        for reader in self.readers:
            reader.is_for_the_whole = True
        try:
            with watching(self.client, self._client_gone, self._write_interim):
                for item in self._events():
                    if isinstance(item, LogEntry):
                        completion.feed(item.event)
                    elif isinstance(item, Closing):
                        raise self._restarting()
        except ClientGone:
            self._cancel_if_alone()
            raise
        finally:
            self.close()

    def _catch_up(self, frames: Frames) -> bytes:
        """Make what the caller has seen again, so that the rest can follow; returns what the last event adds to it.

        A job that goes on may not have come so far yet: the rest is made up for while it is followed.
        """
        said = b""
        for number, row in self._logged() if frames.is_behind else ():
            said = frames.feed(row.event)
            is_over = isinstance(row.event, Finished)
            self._at = (number + 1, 0) if is_over else (number, row.seq)
            if isinstance(row.event, Failed):
                self._at = (len(self.readers), 0)
            if not frames.is_behind:
                return said
        if frames.is_behind and self._at[0] == len(self.readers):
            raise Conflict(REWOUND, code="stream_rewound")
        return said

    def _logged(self) -> Iterator[tuple[int, LogEntry]]:
        """What the logs hold now, one job after the other, up to the first that has not ended well."""
        for number, reader in enumerate(self.readers):
            row = None
            for row in logged(self.service.store, reader.job_id):
                yield number, row
            if row is None or not isinstance(row.event, Finished):
                return

    def _stream(self, frames: Frames, first: bytes) -> Iterator[bytes]:
        is_left = True
        try:
            with watching(self.client, self._client_gone, self._speak):
                yield first  # even if it is empty: the headers leave with it
                yield from self._rest(frames)
                is_left = False
        except ClientGone:  # never a clean end: should it still read, it must not take this for a whole answer
            raise ConnectionResetError(errno.ECONNRESET, "the caller has left") from None
        finally:
            if is_left and not self.readers[0].is_closing:
                self._cancel_if_alone()
            self.close()

    def _rest(self, frames: Frames) -> Iterator[bytes]:
        """Whatever happens, a stream ends with its job's end or with an error, or says that it can be resumed."""
        try:
            for item in self._events():
                if isinstance(item, Closing):
                    yield frames.leaving(self._restarting())
                    return
                yield frames.feed(item.event) if isinstance(item, LogEntry) else self._notice(item)
            if frames.is_behind:
                raise Conflict(REWOUND, code="stream_rewound")
        except ClientGone:
            raise
        except OmniError as error:
            yield frames.failure(error)
        except Exception:
            logger.exception("a stream failed in a way that is our fault")
            yield frames.failure(OmniError(FAULT))
        yield frames.ending()

    def _restarting(self) -> Restarting:
        return Restarting(
            f"This server is restarting. Job {self.job_id} goes on and can be resumed by its id"
            + ("." if self.is_background else f" within {keys.READER_GRACE_S} s; or send the request again.")
        )

    def _notice(self, notice: Queued | Idle) -> bytes:
        if isinstance(notice, Queued):
            seconds = notice.position * self.service.hub.seconds_per_place
            return sse.comment(f"queued position={notice.position + 1} eta={round(seconds)}")
        return sse.comment("keep-alive")

    def _events(self) -> Iterator[LogEntry | Notice]:
        """All jobs' events, one job after the other, up to the first failure, which ends the rest."""
        first, seq = self._at
        for number, reader in enumerate(self.readers[first:], first + 1):
            after, seq = seq, 0
            for item in events(self.service.store, reader, after, is_new=self.is_new):
                yield item
                if isinstance(item, Closing):
                    return
                if isinstance(item, LogEntry) and isinstance(item.event, Failed):
                    for other in self.readers[number:]:
                        self._cancel(other.job_id, "cancelled", "Another prompt of the same request failed.")
                    return

    def _speak(self) -> None:
        for reader in self.readers:
            reader.speak()

    def _write_interim(self) -> None:
        """What may be sent before an answer, any number of times (RFC 9110, 15.2), but not to HTTP/1.0."""
        if not self.takes_interim:
            raise ConnectionResetError
        self.client.sendall(INTERIM)

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
