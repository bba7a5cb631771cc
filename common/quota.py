"""The outcome of a submission: the job's place in the queue, and what its key has left."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """A key's use and limits when its job was enqueued. A limit of 0 is none."""

    num_in_flight: int
    max_in_flight: int
    tokens_left: int
    tokens_per_minute: int


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A queued job, or the older one that the same Idempotency-Key stands for (then without a quota)."""

    job_id: str
    position: int = 0
    num_waiting: int = 0
    quota: Quota | None = None
