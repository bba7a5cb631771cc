"""When a delivery is tried again, and when no more."""

import random
from dataclasses import dataclass, replace
from typing import Self

from common.webhooks.sender import TIMEOUT_S

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """After the last pause that one is repeated until the delivery's time is over: 17 attempts in 72 hours."""

    pauses_s: tuple[float, ...] = (5, 30, 120, 300, 900, 1800, HOUR_S, 2 * HOUR_S, 4 * HOUR_S, 8 * HOUR_S)
    give_up_s: float = 72 * HOUR_S  # of a delivery, and of an endpoint that only fails
    cool_down_s: float = 900.0  # the most that one failure blocks an endpoint's other deliveries
    timeout_s: float = TIMEOUT_S
    lease_s: float = 30.0  # an attempt without a result counts as lost after this; more than timeout and lookup take
    grace_s: float = 10.0  # a delivery that RQ has not begun this long after its time is looked for
    jitter: float = 0.2  # a pause is up to this much longer

    def scaled(self, factor: float) -> Self:
        """All times shorter, for tests; an attempt keeps the seconds that it needs."""
        return replace(
            self,
            pauses_s=tuple(pause * factor for pause in self.pauses_s),
            give_up_s=self.give_up_s * factor,
            cool_down_s=self.cool_down_s * factor,
            timeout_s=max(1.0, self.timeout_s * factor),
            lease_s=max(3.0, self.lease_s * factor),
            grace_s=max(1.0, self.grace_s * factor),
        )

    def pause_s(self, failures: int) -> float:
        """After this many failures, from 1."""
        pause = self.pauses_s[min(failures, len(self.pauses_s)) - 1]
        return pause * (1 + self.jitter * random.random())

    def block_s(self, failures: int) -> float:
        return min(self.pause_s(failures), self.cool_down_s)
