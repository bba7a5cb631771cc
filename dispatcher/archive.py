"""Copies ended jobs whose answers outlive Redis's hour into the store: the metadata and the log, as they are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from common.outbox.entries import EndedJob
from common.records.archive import add_archived, held, packed
from common.records.database import Connection
from common.redis import keys
from common.redis.keys import JobField
from common.redis.script import Scripts

FIELDS: tuple[JobField, ...] = (
    *("owner", "queue", "model", "kind", "state", "code", "created", "ended", "num_prompt", "tokens", "max_tokens"),
    "form",
)
PAGE_ENTRIES = 1000  # read from a log at once


class Archive:
    """A consumer of the outbox. A job that Redis does not have any more was deleted: it is passed over."""

    def __init__(self, redis: "Redis", ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._scripts = Scripts(redis)

    def apply(self, connection: Connection, jobs: Sequence[EndedJob]) -> None:
        """Raises redis.exceptions.RedisError, or sqlalchemy.exc.SQLAlchemyError."""
        ids = ids_of(jobs)
        if not ids:
            return
        found = {job_id: fields for job_id, fields in self._jobs(ids).items() if fields["form"] is not None}
        in_conversations = held(connection, list(found))
        rows = []
        for job_id, fields in found.items():
            expires = None if job_id in in_conversations else int(fields["ended"] or 0) / 1000 + self._ttl_s
            rows.append(row_of(job_id, fields) | {"log": packed(self._log(job_id)), "expires": expires})
        add_archived(connection, rows)

    def committed(self, jobs: Sequence[EndedJob]) -> None:
        """The Redis jobs, which live for a day until they are archived, may expire as all others. Raises nothing."""
        if ids := ids_of(jobs):
            try:
                self._scripts.run("archived", *ids)
            except RedisError:
                return  # they expire a day after their end

    def _jobs(self, ids: Sequence[str]) -> dict[str, dict[JobField, bytes | None]]:
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipeline.hmget(keys.job_key(job_id), *FIELDS)
        return {
            job_id: dict(zip(FIELDS, values, strict=True))
            for job_id, values in zip(ids, pipeline.execute(), strict=True)
        }

    def _log(self, job_id: str) -> bytes:
        """The entries in order, a line of JSON each."""
        lines: list[bytes] = []
        after = "-"
        while entries := self._redis.xrange(keys.log_key(job_id), min=after, count=PAGE_ENTRIES):
            lines += [fields[b"e"] for _, fields in entries]
            if len(entries) < PAGE_ENTRIES:
                break
            after = f"({entries[-1][0].decode()}"
        return b"\n".join(lines)


def ids_of(jobs: Sequence[EndedJob]) -> list[str]:
    return [job.id for job in jobs if job.is_archived]


def row_of(job_id: str, fields: Mapping[JobField, bytes | None]) -> dict[str, Any]:
    """The columns of a job's hash."""

    def text(name: JobField) -> str:
        return (fields[name] or b"").decode()

    def number(name: JobField) -> int:
        return int(fields[name] or 0)

    raw = fields["form"] or b"{}"
    form = json.loads(raw)
    return {
        "id": job_id,
        "owner": text("owner"),
        "queue": text("queue"),
        "model": text("model"),
        "kind": text("kind"),
        "state": text("state"),
        "code": text("code"),
        "created": number("created") / 1000,
        "ended": number("ended") / 1000,
        "num_prompt": number("num_prompt"),
        "num_tokens": number("tokens"),
        "max_tokens": number("max_tokens"),
        "form": packed(raw),
        "metadata": form.get("metadata"),
        "hidden": form.get("store") is False,  # only its conversation shows it
        "derived": None,
    }
