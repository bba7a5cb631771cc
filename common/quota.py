"""The outcome of a submission: the job's place in the queue, and what its key has left."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """A key's use and limits when its job was enqueued. A limit of 0 is none."""

    num_in_flight: int
    max_in_flight: int
    tokens_left: int
    tokens_per_minute: int
    left_today: int = 0
    tokens_per_day: int = 0
    day_left_s: float = 0.0  # until the next day in UTC begins


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A queued job, or the older one that the same Idempotency-Key stands for (then without a quota)."""

    job_id: str
    position: int = 0  # in the queue, 0 is next; -1 when it waits for its `not_before`
    num_waiting: int = 0
    quota: Quota | None = None
    eta_s: float = -1.0  # until its first token; -1: unknown
    place_s: float = 0.0  # between two jobs that start
