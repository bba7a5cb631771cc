"""Bounds the bytes of bodies that a process receives at the same time, and shares them between keys."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import Overloaded

MOST_BYTES = 256 * 2**20
LIMIT = "max_body_bytes_at_once"  # its name in a refusal
SHARE = 3  # a key may hold three times what is free, so that some is always left for other keys


class BodyRoom:
    """The room for bodies; one per process."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._free = most_bytes
        self._held: Counter[str] = Counter()

    @contextmanager
    def held(self, owner: str, num_bytes: int = 0) -> Iterator[Callable[[int], None]]:
        """Reserve room for one body while it is received. The function it yields reserves more.

        Both raise Overloaded when the key has its share already.
        """
        taken = 0

        def take(more: int) -> None:
            nonlocal taken
            self._take(owner, more)
            taken += more

        try:
            take(num_bytes)
            yield take
        finally:
            self._free += taken
            self._held[owner] -= taken
            if not self._held[owner]:
                del self._held[owner]

    def _take(self, owner: str, num_bytes: int) -> None:
        held, may = self._held.get(owner, 0), max(0, SHARE * (self._free - num_bytes))
        if held + num_bytes > may:
            raise Overloaded(
                f"This key sends more at the same time than this server takes: with this body {held + num_bytes} bytes "
                f"would be on their way, of {may} that may be now ({LIMIT}). Send large bodies one after the other.",
                param=LIMIT,
            )
        self._free -= num_bytes
        self._held[owner] += num_bytes
