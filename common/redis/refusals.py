"""The answers of submit.lua that refuse a request -> the errors that callers see."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from common.errors import IdempotencyMismatch, InvalidRequest, KeyLimited, OmniError, Overloaded, Unavailable
from common.quota import Quota
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
    }
)
MEMORY_RETRY_S = 10


def reason_of(reply: Reply) -> str:
    return reply.text("name") if reply.outcome == "limited" else REASONS[reply.outcome]


def quota_of(reply: Reply) -> Quota:
    names = ("in_flight", "max_in_flight", "tokens_left", "tokens_per_minute")
    return Quota(*(reply.number(name) for name in names))


def refusal(reply: Reply, submission: Submission, seconds_per_place: float) -> OmniError:
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
        case "full":
            return Overloaded(
                f"{reply.number('size')} requests are waiting, which is the most this server takes; try again later.",
                retry_after_s=max(1, round(seconds_per_place)),
            )
        case _:
            return key_limited(reply, submission.cost, seconds_per_place)


def key_limited(reply: Reply, cost: int, seconds: float) -> KeyLimited:
    """The error for a limit of the caller's key, with the seconds after which a retry may succeed."""
    name, limit, quota = reply.text("name"), reply.number("limit"), quota_of(reply)
    message = f"This key has reached its limit {name}, which is {limit}."
    if name == "tokens_per_minute":
        seconds = (min(cost, limit) - quota.tokens_left) * 60 / limit
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
