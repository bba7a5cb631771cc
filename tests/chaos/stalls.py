"""Gaps between the deltas of a stream, by the faults within them and the state of the service.

With faults every second a stall may hold several of them: a worker is killed, its successor is killed while it starts,
then Redis goes. How long one fault stops a stream is what the stalls with one fault say.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.pulse import Pulse

LONG_S = 0.25  # from here on a gap is called a stall
MANY = 4
VERY_LONG_S = 2.0
BEFORE_S = 0.1  # a fault needs so long to be felt

Fault = tuple[float, float, str]  # from, until, what


@dataclass
class Stalls:
    """Lengths of stalls in seconds, by the number of faults within them."""

    found: list[tuple[float, float]] = field(default_factory=list)  # s, when it ended; not yet set against faults
    by_faults: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    within: Counter[str] = field(default_factory=Counter)  # s of each state of the service in the very long ones

    def note(self, gap_s: float, ended: float) -> None:
        if gap_s >= LONG_S:
            self.found.append((gap_s, ended))

    def set_against(self, faults: Sequence[Fault], pulse: Pulse) -> None:
        for gap_s, ended in self.found:
            if gap_s >= VERY_LONG_S:
                self.within.update(dict(pulse.within(ended - gap_s, ended)))
            within = sum(began < ended and until > ended - gap_s - BEFORE_S for began, until, _ in faults)
            self.by_faults[min(within, MANY)].append(gap_s)
        self.found = []

    def add(self, other: "Stalls") -> None:
        for number, gaps in other.by_faults.items():
            self.by_faults[number] += gaps
        self.within += other.within

    def lines(self) -> list[str]:
        names = {0: "no fault", 1: "1 fault", MANY: f"{MANY} or more faults"}
        return [
            f"  with {names.get(number, f'{number} faults')} inside: {len(gaps)}; p50 {share(gaps, 0.5):.2f} s, "
            f"p99 {share(gaps, 0.99):.2f} s, max {max(gaps):.2f} s, {sum(gap > 5 for gap in gaps)} above 5 s"
            for number, gaps in sorted(self.by_faults.items())
        ] + self._states()

    def _states(self) -> list[str]:
        shares = [f"{state} {100 * s / self.within.total():.0f} %" for state, s in self.within.most_common()]
        return [f"  in those of {VERY_LONG_S:.0f} s and more: {', '.join(shares)}"] if shares else []


def share(values: Sequence[float], of: float) -> float:
    """The percentile for a share between 0 and 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(of * len(ordered)))] if ordered else 0.0
