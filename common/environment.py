"""The process environment. No other module reads or changes it; settings.py reads the settings through it."""

import os
import sys
from pathlib import Path
from typing import Literal

STARTER = "PROCFILE_RUNNER"  # its pid, set by common/process/start.py
HONCHO = "HONCHO_PROCESS_NAME"
REFUSAL = "configuration: "  # begins the last line of a process that refuses to start
CALLED_FROM = "CALLED_FROM"  # set by ./omni, which runs in the checkout


def torchrun_place() -> tuple[int, int] | None:
    """Rank and number of ranks, if torchrun started this process."""
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return (int(rank), int(size)) if rank and size and "MASTER_ADDR" in os.environ else None


def starter_pid() -> int:
    """The parent's pid if the parent is the Procfile runner, otherwise 0."""
    return os.getppid() if os.environ.get(STARTER) == str(os.getppid()) else 0


def started_by_honcho() -> bool:
    """True under plain `honcho start`, which puts a process of its own between itself and this one."""
    return HONCHO in os.environ


def callers_folder() -> Path:
    """What a relative path on the command line is relative to."""
    return Path(os.environ.get(CALLED_FROM, ""))


def log_format() -> Literal["plain", "json"]:
    """Plain text for a terminal, also through honcho; JSON for files, pipes, systemd, containers and our own runner."""
    return "plain" if sys.stdout.isatty() or started_by_honcho() else "json"


def child_environment(**changes: str | None) -> dict[str, str]:
    """This process's environment with some names set, or removed by None."""
    return {name: value for name, value in (os.environ | changes).items() if value is not None}


def set_default(name: str, value: str) -> None:
    """Set a name in this process's environment for a library that reads it when loaded, unless it is set already."""
    os.environ.setdefault(name, value)


def forget(name: str) -> None:
    """Remove a name from this process's environment, and so from its children's."""
    os.environ.pop(name, None)
