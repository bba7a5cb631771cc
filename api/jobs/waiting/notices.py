"""The notices of a waiting job, their words, and which of them a client has been told."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.redis.job_view import written_time
from common.redis.served.shelf import ModelStatus, ShelfEntry
from common.redis.store import JobStatus
from common.wire import Tier


@dataclass(frozen=True, slots=True)
class Idle:
    """No event for some seconds, or the connection is to be probed."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits; position 1 is the head of the queue, and 0 has left it and is being started."""

    position: int
    eta_s: float = field(compare=False)  # the client is told when its place changes
    tier: Tier = "default"


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The job is not admitted before this unix time."""

    not_before: float


@dataclass(frozen=True, slots=True)
class SwappedOut:
    """The job's model is not loaded. The client is told when its status changes, and at each tenth of its loading."""

    model: str
    status: ModelStatus
    tenths: int  # of its loading
    eta_s: float | None = field(compare=False)  # until it is loaded
    why: str = ""  # it has no place: pinned models hold it


Waiting = Queued | Scheduled | SwappedOut
Told = Waiting | Idle


class WaitNews:
    """What one client was last told of its job's wait."""

    def __init__(self) -> None:
        self._place: Queued | Scheduled | None = None
        self._swapped_out: SwappedOut | None = None

    def of(self, status: JobStatus, entry: ShelfEntry | None) -> list[Waiting]:
        """The notices that say something else than those before."""
        place, swapped_out = place_of(status), swapped_out_of(status, entry)
        news = [notice for notice, told in ((place, self._place), (swapped_out, self._swapped_out)) if notice != told]
        self._place, self._swapped_out = place or self._place, swapped_out
        return [notice for notice in news if notice is not None]

    def again(self) -> Sequence[Told]:
        """What is said when nothing has changed for long."""
        return [self._swapped_out or Idle()]


def place_of(status: JobStatus) -> Queued | Scheduled | None:
    if status.state == "running":
        return None if status.num_entries else Queued(0, -1.0, status.tier)
    if status.not_before:
        return Scheduled(status.not_before)
    return Queued(status.position + 1, status.eta_s, status.tier) if status.position >= 0 else None


def swapped_out_of(status: JobStatus, entry: ShelfEntry | None) -> SwappedOut | None:
    """`entry`: of the job's model, where the worker has several."""
    if status.state != "queued" or status.not_before or entry is None or entry.status == "loaded":
        return None
    return SwappedOut(entry.queue, entry.status, int(entry.share * 10), entry.eta_s, entry.why)


def words_of(notice: Told) -> str:
    if isinstance(notice, Queued):
        tier = "" if notice.tier == "default" else f" tier={notice.tier}"
        eta = f" eta={round(notice.eta_s)}" if notice.eta_s >= 0 else ""
        return f"queued position={notice.position}{eta}{tier}"
    if isinstance(notice, Scheduled):
        return f"scheduled at={written_time(notice.not_before)}"
    if isinstance(notice, SwappedOut):
        if notice.why:
            return f"waiting model={notice.model}, {notice.why}"
        eta = "" if notice.eta_s is None else f" eta={round(notice.eta_s)}"
        if notice.status == "loading":
            return f"loading model={notice.model} progress={notice.tenths / 10:g}{eta}"
        return f"swapped out, model={notice.model}{eta and ',' + eta}"
    return "keep-alive"
