"""How many bytes of bodies a process receives at the same time, and of whom."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import Overloaded

MOST_BYTES = 256 * 2**20
LIMIT = "max_body_bytes_at_once"  # what a refusal calls it
SHARE = 3  # one key may have so many times what is left, so that there is always some for the next


class BodyRoom:
    """One per process."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._free = most_bytes
        self._held: Counter[str] = Counter()

    @contextmanager
    def held(self, owner: str, num_bytes: int = 0) -> Iterator[Callable[[int], None]]:
        """Room for one body while it is received; what it yields takes more. Both raise Overloaded when this key has
        its share already.
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
