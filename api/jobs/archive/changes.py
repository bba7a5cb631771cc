"""Changes of archived answers, and the wait for those that have just ended."""

import time
from collections.abc import Mapping, Sequence

from api.jobs.service import Service
from api.process.offload import in_store_thread
from common.errors import Conflict, NotFound, Unavailable
from common.outbox.stream import Outbox
from common.records.archive import remove_archived, set_metadata
from common.records.database import Records
from common.redis.job_view import JobView

WAIT_S = 2.0  # for the dispatcher to archive what has ended
END_TRIES = 20  # a worker ends a cancelled job within a step
END_PAUSE_S = 0.1


def wait_for_archive(service: Service) -> None:
    """Wait until the store holds whatever has ended before this call, so that a client reads what it wrote.

    Raises Unavailable when the dispatcher is away or far behind.
    """
    if not Outbox(service.store.redis).catches_up(WAIT_S):
        raise Unavailable("What has just ended is not in the store yet (the dispatcher is away); try again soon.")


def cancel_jobs(service: Service, ids: Sequence[str]) -> bool:
    """Cancel them, and wait until all have ended. False when that takes too long."""
    for job_id in ids:
        service.store.cancel(job_id)
    for _ in range(END_TRIES):
        if not any(status.state in ("queued", "running") for status in service.store.poll(ids)):
            return True
        time.sleep(END_PAUSE_S)
    return False


def remove_answer(service: Service, found: JobView, *, is_held: bool = False) -> None:
    """Delete an answer from the store and from Redis; a running one is cancelled first.

    `is_held`: a conversation keeps its items, so it must be in the store before it leaves Redis. Raises Conflict or
    Unavailable when that takes too long: the request can be repeated.
    """
    if not cancel_jobs(service, [found.id]):
        raise Conflict("The answer is still being cancelled; try again.")
    if is_held:
        wait_for_archive(service)
    in_store_thread(_remove, service.records, found)
    service.store.forget(found.id)


def _remove(records: Records, job: JobView) -> None:
    with records.begin() as connection:
        remove_archived(connection, job.owner, job.id, str(job.form["kind"]), time.time())


def change_metadata(service: Service, job: JobView, metadata: Mapping[str, str | None] | None) -> None:
    """Raises NotFound for an answer that was deleted meanwhile."""
    known = {name: value for name, value in (metadata or {}).items() if value is not None}

    def change() -> bool:
        with service.records.begin() as connection:
            return set_metadata(connection, job.owner, job.id, known)

    if not in_store_thread(change):
        raise NotFound(f"There is no stored answer {job.id[:64]!r} of this key any more.")
