"""Named places at which a process kills itself, by wrapped functions. CHAOS_KILL=place[:count] chooses one.

The process dies the count-th time it comes by (1 unless told). With CHAOS_KILL_FILE only the first process to get there
dies: it makes the file.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES: dict[str, tuple[str, str, str, str]] = {
    # name: module, class, method, when
    "before submit": ("common.redis.store", "Store", "submit", "before"),
    "after submit, before the reply": ("common.redis.store", "Store", "submit", "after"),
    "after the claim, before the engine has it": ("worker.jobs.ledger", "Ledger", "_claimed", "before"),
    "after the engine has it": ("worker.jobs.served_model", "ServedModel", "_begin", "after"),
    "before a step": ("worker.jobs.served_model", "ServedModel", "step", "before"),
    "after a step, before it is sent": ("worker.jobs.publisher", "Publisher", "send", "before"),
    "after it is sent, before it is confirmed": ("worker.jobs.publisher", "Publisher", "send", "after"),
    "after it is confirmed": ("worker.jobs.publisher", "Publisher", "confirm", "after"),
    "after the last entry, before the next loop": ("worker.jobs.served_model", "ServedModel", "_count", "after"),
    "before the release": ("worker.jobs.ledger", "Ledger", "release", "before"),
    "after the release": ("worker.jobs.ledger", "Ledger", "release", "after"),
    "before the registration": ("worker.jobs.ledger", "Ledger", "register", "before"),
    "after the registration, before the reclaim": ("worker.jobs.ledger", "Ledger", "register", "after"),
    "after the reclaim": ("worker.jobs.ledger", "Ledger", "reclaim", "after"),
    "before a cancel": ("worker.jobs.served_model", "ServedModel", "cancel_requested", "before"),
    "in the API, before a cancel": ("common.redis.store", "Store", "cancel", "before"),
    "in the API, after a cancel": ("common.redis.store", "Store", "cancel", "after"),
}


def arm() -> None:
    """Wrap the place that CHAOS_KILL names."""
    place, _, count = os.environ.get("CHAOS_KILL", "").partition(":")
    if place:
        module, owner, method, when = PLACES[place]
        kind = getattr(__import__(module, fromlist=[owner]), owner)
        setattr(kind, method, dying(getattr(kind, method), when, int(count or 1)))


def dying(real: Callable[..., Any], when: str, count: int) -> Callable[..., Any]:
    left = [count]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0 and is_first():
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = real(*args, **kwargs)
        if when == "after":
            die()
        return result

    return wrapped


def is_first() -> bool:
    marker = os.environ.get("CHAOS_KILL_FILE", "")
    if not marker:
        return True
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
