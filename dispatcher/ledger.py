"""Ended jobs -> counts of the ledger."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from common.outbox.entries import EndedJob
from common.records.accounts.ledger import Account, Used, add
from common.records.database import Connection


def apply(connection: Connection, jobs: Sequence[EndedJob]) -> None:
    add(connection, counts_of(jobs))


def counts_of(jobs: Sequence[EndedJob]) -> dict[Account, Used]:
    counts: defaultdict[Account, Used] = defaultdict(Used)
    for job in jobs:
        used = counts[Account(job.owner, job.model, day_of(job.ended), job.tier)]
        used.requests += 1
        used.failed += job.state == "failed"
        used.cancelled += job.state == "cancelled"
        used.prompt_tokens += job.num_prompt
        used.cached_tokens += job.num_cached
        used.completion_tokens += job.num_tokens
        used.gpu_us += job.gpu_us
    return dict(counts)


def day_of(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
