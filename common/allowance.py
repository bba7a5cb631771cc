"""What came of a submission: the job's place in line, and what its key has left."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """A key's use and limits, as the script saw them. A limit of 0 is none."""

    num_in_flight: int
    max_in_flight: int
    tokens_left: int
    tokens_per_minute: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A job that is in the line, or an older one that the same Idempotency-Key stands for (without an allowance)."""

    job_id: str
    position: int = 0
    num_waiting: int = 0
    allowance: Allowance | None = None
