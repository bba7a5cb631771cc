"""Ended jobs -> events: the ends of background jobs that somebody may wait for."""

from collections.abc import Sequence
from types import MappingProxyType

from common.outbox.entries import EndedJob
from common.records.database import Connection
from common.records.events import record_event

COMPLETED, FAILED, CANCELLED, INCOMPLETE = "completed", "failed", "cancelled", "incomplete"
# kind of a job's answer -> what its events begin with. Other kinds have no events at OpenAI.
PREFIXES = MappingProxyType({"response": "response", "chat": "chat.completion", "completion": "chat.completion"})
RESPONSE_ENDS = MappingProxyType({"finished": COMPLETED, "failed": FAILED, "cancelled": CANCELLED})


def apply(connection: Connection, jobs: Sequence[EndedJob]) -> None:
    """Record one event for each background job. Lines of a batch have none: the batch has its own."""
    for job in jobs:
        if (event_type := type_of(job)) is not None:
            data = {"id": job.id}
            record_event(connection, job.owner, event_type, data, key=f"{job.id}:{event_type}", created=job.ended)


def type_of(job: EndedJob) -> str | None:
    """None for a job without an event."""
    prefix = PREFIXES.get(job.kind)
    if prefix is None or not job.is_background or job.batch:
        return None
    if prefix != "response":
        return f"{prefix}.{COMPLETED if job.state == 'finished' else FAILED}"
    is_cut = job.state == "finished" and job.finish_reason == "length"
    return f"{prefix}.{INCOMPLETE if is_cut else RESPONSE_ENDS[job.state]}"
