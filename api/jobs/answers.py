"""A job's events -> a stream, or one folded body. Cancels the job when its last client disconnects."""

import errno
import logging
from collections.abc import Iterator
from typing import Any

from flask import Request, Response
from redis.exceptions import RedisError

from api.gate.client_watch import watching
from api.gate.gunicorn_seams import client_socket
from api.gate.notes import hear
from api.jobs.dialects import OPENAI, Dialect
from api.jobs.endpoint import Completion
from api.jobs.events import ClientGone, Closing, Log, Notice, events, logged
from api.jobs.frames import Chunks, Frames
from api.jobs.service import Service
from api.jobs.subscription import Subscription
from api.jobs.waiting.notices import words_of
from common.errors import JobCancelled, OmniError, ReaderGone, Restarting
from common.redis import keys
from common.redis.job_log import LogEntry
from common.wire import Failed, Finished

logger = logging.getLogger("omni.api")

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
FAULT = "The server failed in an unexpected way; its log says more."


class Answer:
    """One client's wait for a job, or for several jobs that are read one after the other.

    Open it before the jobs are submitted (`is_new`), so that no entry is missed. Raises Restarting when this process is
    about to stop. `is_background`: the jobs go on when the client disconnects. `log`: that of an archived answer.
    """

    def __init__(
        self,
        service: Service,
        request: Request,
        *job_ids: str,
        is_background: bool,
        is_new: bool = True,
        log: Log | None = None,
    ) -> None:
        if service.hub.is_closing:
            raise Restarting("This server is restarting; send the request again.")
        self.service = service
        self.client: Any = client_socket(request.environ)
        self.takes_interim = request.environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        self.is_head = request.method == "HEAD"
        self.is_background = is_background
        self.subscriptions: list[Subscription] = [service.hub.subscribe(job_id) for job_id in job_ids]
        self.is_new = is_new
        self.log = log
        self._heard = hear()
        self._at = (0, 0)  # where to begin: number of the job, and seq in its log

    @property
    def job_id(self) -> str:
        """Id of the whole answer."""
        return self.subscriptions[0].job_id

    def attach(self, *job_ids: str, log: Log | None = None) -> None:
        """Read other jobs instead: those that the Idempotency-Key was used for before."""
        self.close()
        self.log = log or self.log
        self.subscriptions = [self.service.hub.subscribe(job_id) for job_id in job_ids]
        self.is_new = False

    def close(self) -> None:
        """Unsubscribe. The jobs go on."""
        for subscription in self.subscriptions:
            self.service.hub.unsubscribe(subscription)

    def stream(self, chunks: Chunks, dialect: Dialect = OPENAI, *, after: int = 0, with_ids: bool = False) -> Response:
        """All chunks with a number above `after`. Raises StreamRewound when the jobs ended before."""
        frames = Frames(chunks, dialect, after, with_ids=with_ids)
        try:
            first = frames.opening() + self._catch_up(frames)
        except BaseException:
            self.close()
            raise
        if self.is_head:  # no body is read, so the end of a stream would not be noticed
            self.close()
            return Response(headers=dialect.headers)
        return Response(self._stream(frames, first), headers=dialect.headers)

    def fold(self, completion: Completion) -> None:
        """Feed every event up to the end. Raises ClientGone, or Restarting when this process stops."""
        for subscription in self.subscriptions:
            subscription.waits_for_end = True
        try:
            with watching(self.client, self._client_gone, self._write_interim):
                for item in self._events():
                    if isinstance(item, LogEntry):
                        completion.feed(item.event)
                    elif isinstance(item, Closing):
                        raise self._restarting()
        except ClientGone:
            self._cancel_unless_shared()
            raise
        finally:
            self.close()

    def _catch_up(self, frames: Frames) -> bytes:
        """Replay the chunks that the client has received; returns the frames of the last event that are new to it.

        If the log is still shorter than that, the replay goes on with the live entries.
        """
        new = b""
        for number, entry in self._logged() if frames.is_behind else ():
            new = frames.feed(entry.event)
            is_over = isinstance(entry.event, Finished)
            self._at = (number + 1, 0) if is_over else (number, entry.seq)
            if isinstance(entry.event, Failed):
                self._at = (len(self.subscriptions), 0)
            if not frames.is_behind:
                return new
        if frames.is_behind and self._at[0] == len(self.subscriptions):
            raise frames.rewound()
        return new

    def _logged(self) -> Iterator[tuple[int, LogEntry]]:
        """The entries that the logs hold now, one job after the other, up to the first that has not finished."""
        for number, subscription in enumerate(self.subscriptions):
            entry = None
            for entry in logged(self.log or self.service.store.log, subscription.job_id):
                yield number, entry
            if entry is None or not isinstance(entry.event, Finished):
                return

    def _stream(self, frames: Frames, first: bytes) -> Iterator[bytes]:
        is_aborted = True
        try:
            with watching(self.client, self._client_gone, self._probe):
                yield first  # even if it is empty: gunicorn sends the headers with it
                yield from self._rest(frames)
                is_aborted = False
        except ClientGone:  # not a clean end: a client that still reads must not take this for the whole answer
            raise ConnectionResetError(errno.ECONNRESET, "the client disconnected") from None
        finally:
            if is_aborted and not self.subscriptions[0].is_closing:
                self._cancel_unless_shared()
            self.close()

    def _rest(self, frames: Frames) -> Iterator[bytes]:
        """Ends with the end of the job, with an error, or with a frame that says the stream can be resumed."""
        try:
            for item in self._events():
                if isinstance(item, Closing):
                    yield frames.closing(self._restarting())
                    return
                yield frames.feed(item.event) if isinstance(item, LogEntry) else frames.notice(words_of(item))
            if frames.is_behind:
                raise frames.rewound()
        except ClientGone:
            raise
        except OmniError as error:
            yield frames.failure(error)
        except Exception:
            logger.exception("a stream failed unexpectedly")
            yield frames.failure(OmniError(FAULT))
        yield frames.ending()

    def _restarting(self) -> Restarting:
        return Restarting(
            f"This server is restarting. Job {self.job_id} goes on and can be resumed by its id"
            + ("." if self.is_background else f" within {keys.READER_GRACE_S} s; or send the request again.")
        )

    def _events(self) -> Iterator[LogEntry | Notice]:
        """All jobs' entries, one job after the other. The first failure cancels the jobs after it."""
        first, seq = self._at
        for number, subscription in enumerate(self.subscriptions[first:], first + 1):
            after, seq = seq, 0
            for item in events(self.service.store, subscription, after, is_new=self.is_new, log=self.log):
                if isinstance(item, LogEntry):
                    self._heard.note(item.event)
                elif isinstance(item, Closing):
                    self._heard.end = Restarting.code
                yield item
                if isinstance(item, Closing):
                    return
                if isinstance(item, LogEntry) and isinstance(item.event, Failed):
                    for other in self.subscriptions[number:]:
                        self._cancel(other.job_id, JobCancelled.code, "Another prompt of the same request failed.")
                    return

    def _probe(self) -> None:
        for subscription in self.subscriptions:
            subscription.probe()

    def _write_interim(self) -> None:
        """An interim response: allowed any number of times before the answer (RFC 9110, 15.2), except to HTTP/1.0."""
        if not self.takes_interim:
            raise ConnectionResetError
        self.client.sendall(INTERIM)

    def _client_gone(self) -> None:
        for subscription in self.subscriptions:
            subscription.client_gone()

    def _cancel_unless_shared(self) -> None:
        """The client disconnected: cancel the jobs that no other request of this process waits for."""
        if self.is_background:
            return
        for subscription in self.subscriptions:
            if self.service.hub.unsubscribe(subscription):
                self._cancel(subscription.job_id, ReaderGone.code, "The caller closed the connection.")

    def _cancel(self, job_id: str, code: str, message: str) -> None:
        try:
            self.service.store.cancel(job_id, code=code, message=message)
        except RedisError as error:
            logger.warning("a job could not be cancelled now (%s); it expires without a reader", error)
