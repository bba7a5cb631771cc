"""One stream's frames: chunks numbered in log order, errors, and what ends it. Pure."""

from typing import Any, Protocol

from api.jobs import sse
from api.jobs.dialects import Dialect
from common.errors import JobFailed, OmniError
from common.wire import Event, Failed

RESUME_MS = 1000


class Chunks(Protocol):
    """Events to chunks, in log order from the first event."""

    def opening(self) -> list[dict[str, Any]]:
        """What can be said before anything has happened."""
        ...

    def feed(self, event: Event) -> list[dict[str, Any]]: ...


class Frames:
    """Chunks with a number up to `after` are counted and not sent. `id:` and `retry:` lines go only to who asked."""

    def __init__(self, chunks: Chunks, dialect: Dialect, after: int = 0, *, with_ids: bool = False) -> None:
        self._chunks = chunks
        self._dialect = dialect
        self._after = after
        self._with_ids = with_ids
        self._num_made = 0

    @property
    def is_behind(self) -> bool:
        """Whether the caller has seen chunks that were not made here yet."""
        return self._num_made < self._after

    def opening(self) -> bytes:
        return self._numbered(self._chunks.opening())

    def feed(self, event: Event) -> bytes:
        """All frames of one event together: each write wakes the caller.

        One that has seen more than there is up to a failure is told that instead.
        """
        said = self._numbered(self._chunks.feed(event))
        if isinstance(event, Failed) and not self._dialect.has_failure_chunks and not self.is_behind:
            said += self.failure(JobFailed(event.message, code=event.code))
        return said

    def failure(self, error: OmniError) -> bytes:
        """An error that no client takes for an answer's end; it has no number, so nobody resumes after it."""
        data = self._dialect.failure(error, max(self._num_made, self._after))
        return sse.frame(data, event=data["type"] if self._dialect.names_events else None)

    def leaving(self, error: OmniError) -> bytes:
        """The last words of a process that leaves: who resumes by numbers comes back, anybody else has an error."""
        return sse.retry(RESUME_MS) if self._with_ids else self.failure(error)

    def ending(self) -> bytes:
        return self._dialect.ending

    def _numbered(self, chunks: list[dict[str, Any]]) -> bytes:
        said = b""
        for chunk in chunks:
            self._num_made += 1
            if self._num_made > self._after:
                number = self._num_made if self._with_ids else None
                said += sse.frame(chunk, number, chunk["type"] if self._dialect.names_events else None)
        return said
