"""The frames of one stream: chunks numbered in log order, errors, and the ending. Pure."""

from typing import Any, Protocol

from api.jobs import sse
from api.jobs.dialects import Dialect
from common.errors import JobFailed, OmniError, StreamRewound
from common.wire import Event, Failed

RESUME_MS = 1000


class Chunks(Protocol):
    """Turns events into chunks. Fed every event once, in log order."""

    def opening(self) -> list[dict[str, Any]]:
        """Chunks that need no event."""
        ...

    def feed(self, event: Event) -> list[dict[str, Any]]: ...


class Frames:
    """Chunks numbered up to `after` are counted and not sent. `id:` and `retry:` lines are sent only `with_ids`, and
    only in server-sent events."""

    def __init__(self, chunks: Chunks, dialect: Dialect, after: int = 0, *, with_ids: bool = False) -> None:
        self._chunks = chunks
        self._dialect = dialect
        self._after = after
        self._with_ids = with_ids and not dialect.is_lines
        self._num_chunks = 0

    @property
    def is_behind(self) -> bool:
        """True while chunks that the client has received are still to be replayed."""
        return self._num_chunks < self._after

    def rewound(self) -> StreamRewound:
        """What a client is told that is still ahead when the jobs have ended."""
        return StreamRewound(
            "The answer of this job has fewer events than 'starting_after' says were already sent: it ended with "
            f"{self._num_chunks} events. Read it from its beginning, without 'starting_after'.",
            param="starting_after",
        )

    def opening(self) -> bytes:
        return self._numbered(self._chunks.opening())

    def feed(self, event: Event) -> bytes:
        """All frames of one event, to be written at once: each write wakes the client.

        The failure of a job is left out for a client that is ahead of the log; the stream reports that instead.
        """
        frames = self._numbered(self._chunks.feed(event))
        if isinstance(event, Failed) and not self._dialect.has_failure_chunks and not self.is_behind:
            frames += self.failure(JobFailed(event.message, code=event.code))
        return frames

    def notice(self, text: str) -> bytes:
        return self._dialect.notice(text, is_block=not self._with_ids)

    def failure(self, error: OmniError) -> bytes:
        """An error frame. It has no number, so no client resumes after it."""
        data = self._dialect.failure(error, max(self._num_chunks, self._after))
        return self._dialect.frame(data)

    def closing(self, error: OmniError) -> bytes:
        """The last frame of a process that stops: a client that resumes by ids reconnects, any other gets an error."""
        return sse.retry(RESUME_MS) if self._with_ids else self.failure(error)

    def ending(self) -> bytes:
        return self._dialect.ending

    def _numbered(self, chunks: list[dict[str, Any]]) -> bytes:
        frames = b""
        for chunk in chunks:
            self._num_chunks += 1
            if self._num_chunks > self._after:
                number = self._num_chunks if self._with_ids else None
                frames += self._dialect.frame(chunk, number)
        return frames
