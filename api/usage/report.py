"""Rows of the ledger -> OpenAI's buckets, one a day, or CSV."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from common.records.accounts.ledger import Account, Dimension, Used

DAY_S = 86400
Rows = Sequence[tuple[Account, Used]]
NameOf = Callable[[str], str]  # of an owner
COLUMNS = (
    "requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens", "gpu_seconds",
)  # fmt: skip


def buckets(
    rows: Rows, first: date, last: date, group_by: Collection[Dimension], name_of: NameOf
) -> list[dict[str, Any]]:
    """A bucket for each day from `first` to `last`, also for days without usage."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for account, used in rows:
        found[account.day].append(result(account, used, group_by, name_of))
    days = (first + timedelta(days=number) for number in range((last - first).days + 1))
    return [
        {
            "object": "bucket",
            "start_time": (start := unix_s(day)),
            "end_time": start + DAY_S,
            "results": found.get(day.isoformat(), []),
        }
        for day in days
    ]


def result(account: Account, used: Used, group_by: Collection[Dimension], name_of: NameOf) -> dict[str, Any]:
    """OpenAI's fields, and what only we know: failures, GPU seconds, the key's name."""
    has_key = "owner" in group_by
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": used.prompt_tokens,
        "input_cached_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
        "num_model_requests": used.requests,
        "num_failed": used.failed,
        "num_cancelled": used.cancelled,
        "gpu_seconds": round(used.gpu_us / 1e6, 6),
        "api_key_id": account.owner if has_key else None,
        "key": name_of(account.owner) if has_key else None,
        "model": account.model if "model" in group_by else None,
        "service_tier": account.tier if "tier" in group_by else None,
        "project_id": None,
        "user_id": None,
        "batch": None,
    }


def as_csv(rows: Rows, group_by: Collection[Dimension], name_of: NameOf) -> str:
    """A line per day and group, with a header."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    dimensions = [name for name in ("owner", "model", "tier") if name in group_by]
    lines.writerow(["day", *("key" if name == "owner" else name for name in dimensions), *COLUMNS])
    for account, used in rows:
        named = account._replace(owner=name_of(account.owner))
        counts = (used.requests, used.failed, used.cancelled)
        tokens = (used.prompt_tokens, used.cached_tokens, used.completion_tokens)
        seconds = f"{used.gpu_us / 1e6:.6f}"
        lines.writerow([account.day, *(getattr(named, name) for name in dimensions), *counts, *tokens, seconds])
    return text.getvalue()


def unix_s(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
