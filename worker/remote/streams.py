"""The open streams of a remote engine and the events they have brought."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from common.flag import Flag
from worker.remote.client import Stream, VllmClient
from worker.remote.sequence import RemoteSequence
from worker.remote.wire import StreamEvent


class Streams:
    """One thread opens, closes and reads; the streams' own threads only add events, and interrupt() ends a wait."""

    def __init__(self, client: VllmClient, vocab_size: int) -> None:
        self._client = client
        self._vocab_size = vocab_size
        self._open: dict[Stream, RemoteSequence] = {}
        self._events: deque[tuple[Stream, StreamEvent]] = deque()
        self._wake = Flag()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def sequences(self) -> list[RemoteSequence]:
        """Those with an open stream."""
        return list(self._open.values())

    def open(self, remote: RemoteSequence, body: dict[str, Any]) -> None:
        """Request a sequence's next tokens."""
        stream = Stream(self._client, body, self._vocab_size, self._put)
        remote.stream, remote.num_before = stream, remote.sequence.num_completion_tokens
        self._open[stream] = remote
        stream.start()

    def close(self, remote: RemoteSequence) -> None:
        """Break a sequence's stream off, if it has one. Its remaining events are dropped."""
        if remote.stream is not None:
            remote.stream.close()
            del self._open[remote.stream]
            remote.stream = None

    def interrupt(self) -> None:
        """End the wait in events(). May be called from any thread."""
        self._wake.set()

    def events(self, wait_s: float) -> Iterator[tuple[RemoteSequence, StreamEvent]]:
        """Wait up to `wait_s` for events; yields those of streams that are still open."""
        self._wake.wait(wait_s)
        self._wake.clear()
        while self._events:
            stream, event = self._events.popleft()
            remote = self._open.get(stream)
            if remote is not None:
                yield remote, event

    def _put(self, stream: Stream, event: StreamEvent) -> None:
        """Called by a stream's thread."""
        self._events.append((stream, event))
        self._wake.set()
