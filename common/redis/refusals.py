"""The answers of submit.lua that refuse a request -> the errors that callers see."""

import math
import time
from collections.abc import Mapping
from types import MappingProxyType

from common.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    KeyLimited,
    OmniError,
    Overloaded,
    Unavailable,
    WindowTooShort,
)
from common.quota import Quota
from common.redis.job_view import written_time
from common.redis.script import Reply
from common.redis.server import NEARLY_FULL, evicts
from common.redis.submission import Submission

# outcome -> the `reason` label of omni:admissions_refused
REASONS: Mapping[str, str] = MappingProxyType(
    {
        "full": "queue_full",
        "mismatch": "idempotency_mismatch",
        "priority": "priority",
        "memory": "memory",
        "evicts": "maxmemory_policy",
        "late": "window",
    }
)
MEMORY_RETRY_S = 10
OWN_RETRY_S = 5  # for a place of the key's own: nobody knows when one of its jobs ends


def reason_of(reply: Reply) -> str:
    return reply.text("name") if reply.outcome == "limited" else REASONS[reply.outcome]


def quota_of(reply: Reply) -> Quota:
    return Quota(
        num_in_flight=reply.number("in_flight"),
        max_in_flight=reply.number("max_in_flight"),
        tokens_left=reply.number("tokens_left"),
        tokens_per_minute=reply.number("tokens_per_minute"),
        left_today=reply.number("left_today"),
        tokens_per_day=reply.number("tokens_per_day"),
        day_left_s=reply.number("day_left_ms") / 1000,
    )


def refusal(reply: Reply, submission: Submission) -> OmniError:
    """The error for an outcome other than `ok` and `again`."""
    match reply.outcome:
        case "mismatch":
            return IdempotencyMismatch("This Idempotency-Key was used for another request; send a new key.")
        case "priority":
            return InvalidRequest(f"'priority': this key may ask for {reply.number('best')} or more.", param="priority")
        case "memory":
            return Unavailable(NEARLY_FULL, retry_after_s=MEMORY_RETRY_S)
        case "evicts":
            return Unavailable(evicts(reply.text("policy")), retry_after_s=MEMORY_RETRY_S)
        case "late":
            return too_short(reply.number("needed_ms") / 1000, submission.deadline_s)
        case "full":
            return Overloaded(
                f"{reply.number('size')} requests are waiting, which is the most this server takes; try again later.",
                retry_after_s=max(1, math.ceil(place_s(reply))),
            )
        case _:
            return key_limited(reply, submission.cost, place_s(reply))


def place_s(reply: Reply) -> float:
    """Seconds between two jobs that start."""
    return reply.number("place_ms") / 1000


def too_short(needed_s: float, deadline_s: float) -> WindowTooShort:
    """The error for a deadline that the measured rate does not allow, or where the model has no place (below 0)."""
    if needed_s < 0:
        return WindowTooShort(
            f"This request cannot end within {deadline_s:g} s: its model cannot be loaded as things stand. "
            "GET /v1/models says why."
        )
    return WindowTooShort(
        f"This request cannot end within {deadline_s:g} s: at the measured rate it ends in {math.ceil(needed_s)} s. "
        f"The earliest time that can be kept is {written_time(time.time() + needed_s)}: allow more, or try later.",
        retry_after_s=max(1, math.ceil(needed_s - deadline_s)),
    )


def key_limited(reply: Reply, cost: int, seconds: float) -> KeyLimited:
    """The error for a limit of the caller's key, with seconds after which a retry may succeed."""
    name, limit, quota = reply.text("name"), reply.number("limit"), quota_of(reply)
    message = f"This key has reached its limit {name}, which is {limit}."
    if name in ("max_in_flight", "max_queued"):
        seconds = OWN_RETRY_S
    if name == "tokens_per_minute":
        seconds = (min(cost, limit) - quota.tokens_left) * 60 / limit
    if name == "tokens_per_day":
        seconds = quota.day_left_s
        message = f"{message[:-1]}; the day ends at 00:00 UTC, {max(0, quota.left_today)} tokens are left of it."
    if name == "max_kept_bytes":
        seconds = max(seconds, reply.number("expires_ms") / 1000)
        message = kept_message(reply.number("kept"), limit)
    return KeyLimited(message, limit=name, retry_after_s=max(1, math.ceil(seconds)), quota=quota)


def kept_message(kept: int, most: int) -> str:
    """The bytes that a key keeps, its limit, and how to make room."""
    takes, may = f"take {kept / 2**20:.1f} MiB", f"{most / 2**20:.1f} MiB (max_kept_bytes)"
    make_room = "delete stored responses (DELETE /v1/responses/{id}), or wait until earlier ones expire"
    if kept >= most:
        return f"This key's requests and answers {takes}, and it may keep {may}: {make_room}."
    makes = f"{takes}, and with this one they may take {may}"
    return f"This key's requests and answers {makes}: {make_room}, or ask for less."
