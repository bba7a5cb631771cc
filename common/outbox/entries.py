"""An entry of the outbox: a job that has ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from common.wire import JobState


@dataclass(frozen=True, slots=True)
class EndedJob:
    """One entry. Times are unix seconds."""

    entry: str  # its id in the stream: <ms>-<n>
    id: str
    owner: str
    model: str  # the served id that was asked for
    tier: str
    kind: str  # of the answer, as Endpoint.kind
    state: JobState
    finish_reason: str
    is_background: bool
    batch: str  # the batch that it is a line of, or ""
    is_archived: bool
    ended: float
    num_prompt: int  # 0 for a job that ended before its prompt was read
    num_cached: int
    num_tokens: int
    gpu_us: int


def job_of(entry: str, fields: Mapping[bytes, bytes]) -> EndedJob:
    def text(name: str) -> str:
        return fields.get(name.encode(), b"").decode("utf-8", "replace")

    def number(name: str) -> int:
        return int(float(fields.get(name.encode()) or 0))

    return EndedJob(
        entry=entry,
        id=text("id"),
        owner=text("owner"),
        model=text("model"),
        tier=text("tier") or "default",
        kind=text("kind"),
        state=cast(JobState, text("state")),
        finish_reason=text("finish_reason"),
        is_background=number("background") == 1,
        batch=text("batch"),
        is_archived=number("archive") == 1,
        ended=number("ended") / 1000,
        num_prompt=number("num_prompt") if text("first_row") else 0,
        num_cached=number("cached"),
        num_tokens=number("tokens"),
        gpu_us=number("gpu_us"),
    )
