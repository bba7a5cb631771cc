"""Named places at which a process kills itself, by wrapped functions. The file CHAOS_KILL_FILE holds the name of one.

Only the first process that comes by that place dies: it removes the file.
"""

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
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


IN_THE_API = [place for place, (module, *_) in PLACES.items() if module.startswith("common.redis.store")]


def arm(places: Iterable[str]) -> None:
    """Wrap these places, if there is a file to name one of them."""
    if file := os.environ.get("CHAOS_KILL_FILE"):
        for place in places:
            module, owner, method, when = PLACES[place]
            kind = getattr(import_module(module), owner)
            setattr(kind, method, dying(getattr(kind, method), when, place, Path(file)))


def dying(real: Callable[..., Any], when: str, place: str, file: Path) -> Callable[..., Any]:
    def die() -> None:
        with suppress(FileNotFoundError):
            if file.read_text() == place:
                file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = real(*args, **kwargs)
        if when == "after":
            die()
        return result

    return wrapped
