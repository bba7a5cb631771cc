"""How long loading takes: measured for each model, from warm and from cold, and estimated before that."""

from dataclasses import dataclass

NEWEST = 0.5  # weight of the latest measurement
TELLING_BYTES = 10**8  # what loading a smaller model takes says nothing of larger ones


@dataclass(frozen=True, slots=True)
class LoadPace:
    """Of loads in general."""

    start_s: float  # that does not depend on the size
    bytes_per_s: float

    def seconds(self, num_bytes: int) -> float:
        return self.start_s + num_bytes / self.bytes_per_s

    def as_measured(self, num_bytes: int, seconds: float) -> "LoadPace":
        """With the same start, and the rate that gives this time."""
        return LoadPace(self.start_s, num_bytes / max(seconds - self.start_s, 0.1 * seconds, 1e-3))


WARM, COLD = LoadPace(0.3, 4e9), LoadPace(1.0, 0.4e9)  # before anything was measured


class SwapTimes:
    """Seconds from the beginning of a load until the first step can run."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, bool], float] = {}  # of (queue, from warm)
        self._paces = {True: WARM, False: COLD}

    def measured(self, queue: str, num_bytes: int, seconds: float, *, is_warm: bool) -> None:
        before = self._seconds.get((queue, is_warm))
        self._seconds[queue, is_warm] = seconds if before is None else NEWEST * seconds + (1 - NEWEST) * before
        if num_bytes >= TELLING_BYTES:
            self._paces[is_warm] = self._paces[is_warm].as_measured(num_bytes, seconds)

    def expected(self, queue: str, num_bytes: int, *, is_warm: bool) -> float:
        """What was measured for this model, else by the pace of others."""
        if (seconds := self._seconds.get((queue, is_warm))) is not None:
            return seconds
        return self._paces[is_warm].seconds(num_bytes)
