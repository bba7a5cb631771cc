"""Whose step is next: models that have work at the same time get the same share of the device's time."""

from collections.abc import Sequence


class FairTurns:
    """Start-time fair queuing: the model whose last step ended earliest on a clock of time used.

    A model that had no work starts at the others' time, so it gets nothing for its pause, and none waits for it longer
    than for one step.
    """

    def __init__(self) -> None:
        self._clock = 0.0  # the start of the last step, in seconds of use
        self._ends: dict[str, float] = {}  # queue -> the end of its last step

    def next(self, busy: Sequence[str]) -> str:
        """One of these queues, of which there is at least one."""
        starts = {queue: max(self._clock, self._ends.get(queue, 0.0)) for queue in busy}
        chosen = min(busy, key=starts.__getitem__)
        self._clock = starts[chosen]
        return chosen

    def took(self, queue: str, seconds: float) -> None:
        """The step of the model chosen last took this long."""
        self._ends[queue] = self._clock + seconds
