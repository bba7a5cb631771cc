"""A job's place in the queue -> `Omni-Queue-*`; a key's quota -> the `x-ratelimit-*` headers, as OpenAI names them.

`requests` counts requests in flight (waiting and running) against the key's limit, or the queue's if the key has none.
`tokens` counts the key's tokens per minute, `tokens-day` those of the day in UTC, for keys that have such a limit.
"""

from common.quota import Enqueued, Quota


def queue_headers(enqueued: Enqueued) -> dict[str, str]:
    """The job's place in the queue (1 is next; none before its time), and seconds to its first token, if known."""
    place = {"Omni-Queue-Position": str(enqueued.position + 1)} if enqueued.position >= 0 else {}
    return place | ({"Omni-Queue-ETA": f"{enqueued.eta_s:.1f}"} if enqueued.eta_s >= 0 else {})


def rate_headers(quota: Quota, num_waiting: int, max_queue: int, place_s: float) -> dict[str, str]:
    if quota.max_in_flight:
        limit, remaining = quota.max_in_flight, quota.max_in_flight - quota.num_in_flight
    else:
        limit, remaining = max_queue, max_queue - num_waiting
    headers = {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(max(0, remaining)),
        "x-ratelimit-reset-requests": duration(place_s if remaining < limit else 0.0),
    }
    if per_minute := quota.tokens_per_minute:
        left = min(per_minute, quota.tokens_left)
        headers |= {
            "x-ratelimit-limit-tokens": str(per_minute),
            "x-ratelimit-remaining-tokens": str(max(0, left)),
            "x-ratelimit-reset-tokens": duration((per_minute - left) * 60 / per_minute),
        }
    if per_day := quota.tokens_per_day:
        headers |= {
            "x-ratelimit-limit-tokens-day": str(per_day),
            "x-ratelimit-remaining-tokens-day": str(max(0, quota.left_today)),
            "x-ratelimit-reset-tokens-day": duration(quota.day_left_s),
        }
    return headers


def duration(seconds: float) -> str:
    """A duration as OpenAI writes it: '0s', '120ms', '1s', '6m0s'."""
    if 0 < seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
