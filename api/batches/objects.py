"""A batch's row -> the object that OpenAI's or Anthropic's clients read."""

from datetime import UTC, datetime
from typing import Any

from common.records.batches import BatchRow, expected_end
from common.records.files import OPEN

NO_DISPATCHER = "No dispatcher is running, which works batches off. An operator starts it with 'omni serve'."
KEPT_S = 29 * 24 * 3600  # Anthropic's results, after the creation of their batch


def batch_object(row: BatchRow, *, has_dispatcher: bool = True) -> dict[str, Any]:
    """OpenAI's Batch. `eta` (unix seconds), `lines_per_s` and `waiting_for`, which are ours, are there while they can
    be told."""
    found: dict[str, Any] = {
        "id": row["id"],
        "object": "batch",
        "endpoint": row["endpoint"],
        "model": row["model"],
        "errors": {"object": "list", "data": row["errors"]} if row["errors"] else None,
        "input_file_id": row["input_file_id"],
        "completion_window": row["completion_window"],
        "status": row["status"],
        "output_file_id": row["output_file_id"],
        "error_file_id": row["error_file_id"],
        "created_at": _second(row["created"]),
        "in_progress_at": _second(row["in_progress"]),
        "expires_at": _second(row["expires"]),
        "finalizing_at": _second(row["finalizing"]),
        "completed_at": _second(row["completed"]),
        "failed_at": _second(row["failed"]),
        "expired_at": _second(row["expired"]),
        "cancelling_at": _second(row["cancelling"]),
        "cancelled_at": _second(row["cancelled"]),
        "request_counts": {
            "total": row["num_total"],
            "completed": row["num_succeeded"],
            "failed": row["num_errored"],
        },
        "usage": {
            "input_tokens": row["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": row["cached_tokens"]},
            "output_tokens": row["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": row["reasoning_tokens"]},
            "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
        },
        "metadata": row["metadata"],
    }
    if (ends := expected_end(row)) is not None:
        found["eta"] = _second(ends)
    if row["lines_per_s"] is not None and row["status"] == "in_progress":
        found["lines_per_s"] = row["lines_per_s"]
    return found | waiting(row, has_dispatcher)


def waiting(row: BatchRow, has_dispatcher: bool) -> dict[str, str]:
    if row["status"] not in OPEN:
        return {}
    why = row["waiting_for"] if row["status"] == "in_progress" else None
    why = why if has_dispatcher else NO_DISPATCHER
    return {"waiting_for": why} if why else {}


def message_batch_object(row: BatchRow, root: str, now: float, *, has_dispatcher: bool = True) -> dict[str, Any]:
    """Anthropic's MessageBatch, with our `waiting_for`. `root`: the address that the client has called, with a slash
    at its end."""
    has_ended, is_archived = row["status"] not in OPEN, now >= row["created"] + KEPT_S
    ended = row["completed"] or row["expired"] or row["cancelled"] or row["failed"]
    counts = {
        "succeeded": row["num_succeeded"],
        "errored": row["num_errored"],
        "canceled": row["num_cancelled"],
        "expired": row["num_expired"],
    }
    has_results = has_ended and not is_archived and row["output_file_id"] is not None
    return {
        "id": row["id"],
        "type": "message_batch",
        "processing_status": "ended" if has_ended else "canceling" if row["cancelling"] else "in_progress",
        "request_counts": {"processing": row["num_total"] - sum(counts.values())} | counts,
        "created_at": _moment(row["created"]),
        "expires_at": _moment(row["expires"]),
        "cancel_initiated_at": _moment(row["cancelling"]),
        "ended_at": _moment(ended) if has_ended else None,
        "archived_at": _moment(row["created"] + KEPT_S) if has_ended and is_archived else None,
        "results_url": f"{root}v1/messages/batches/{row['id']}/results" if has_results else None,
        **waiting(row, has_dispatcher),
    }


def _second(moment: float | None) -> int | None:
    return int(moment) if moment is not None else None


def _moment(moment: float | None) -> str | None:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z") if moment is not None else None
