"""An archived answer: its job and its log, read from the store."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from api.jobs.service import Service
from api.process.offload import in_store_thread
from api.reading.choice import TokenDecoder
from common.errors import ModelNotFound, ModelNotReady
from common.records.archive import ArchivedRow, archived_job, unpacked
from common.records.database import Records
from common.redis.job_log import LogEntry
from common.redis.job_view import JobView
from common.wire import JobState
from common.wire_codec import decode_event

ARCHIVED_ID = re.compile(r"[a-z]+[-_][0-9a-f]{32}")  # others are not asked for: not every text can be one in SQL


@dataclass(frozen=True, slots=True)
class ArchivedLog:
    """The log of one ended job, a line of JSON for each entry. The last entry ends the job: nobody waits for more."""

    lines: Sequence[bytes]

    def entries(self, job_id: str, after: int = 0, count: int = 512) -> list[LogEntry]:
        """Raises WireError for an entry that is not ours."""
        lines = self.lines[after : after + count]
        return [LogEntry(seq, decode_event(orjson.loads(line))) for seq, line in enumerate(lines, after + 1)]


@dataclass(frozen=True, slots=True)
class ArchivedAnswer:
    """A job as it was when it ended."""

    job: JobView
    log: ArchivedLog


class UnknownTokens:
    """Tokens of a model that is not served any more: they have numbers and no text."""

    def token_bytes(self, token_id: int) -> tuple[str, list[int]]:
        return f"token_id:{token_id}", []

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.token_bytes(token_id)[0] for token_id in ids)


def archived(service: Service, owner: str, job_id: str, *, with_hidden: bool = False) -> ArchivedAnswer | None:
    if not ARCHIVED_ID.fullmatch(job_id):
        return None
    return in_store_thread(_read, service.records, owner, job_id, with_hidden)


def _read(records: Records, owner: str, job_id: str, with_hidden: bool) -> ArchivedAnswer | None:
    with records.read() as connection:
        row = archived_job(connection, owner, job_id, with_hidden=with_hidden)
    return None if row is None else archived_answer(row)


def archived_answer(row: ArchivedRow) -> ArchivedAnswer:
    """Unpacks the row: in a thread. Metadata that was changed since is in its own column."""
    form = orjson.loads(unpacked(row.form))
    job = JobView(
        id=row.id,
        state=cast(JobState, row.state),
        queue=row.queue,
        owner=row.owner,
        model=row.model,
        created=row.created,
        claimed=0,
        ended=row.ended,
        num_prompt_tokens=row.num_prompt,
        num_tokens=row.num_tokens,
        max_tokens=row.max_tokens,
        position=-1,
        code=row.code,
        crashes=0,
        form=form if row.metadata is None else form | {"metadata": row.metadata},
    )
    return ArchivedAnswer(job, ArchivedLog(unpacked(row.log).split(b"\n")))


def decoder_of(service: Service, queue: str, *, is_archived: bool) -> TokenDecoder:
    """Raises ModelNotFound or ModelNotReady, unless the answer is archived: it may be older than the served models."""
    try:
        return service.models.encoder_of_answers(queue)
    except (ModelNotFound, ModelNotReady):
        if not is_archived:
            raise
        return UnknownTokens()
