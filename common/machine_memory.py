"""How much memory this machine has, or the container in which we are, where that has less."""

import os
import sys
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
SHARE = 16
SMALLEST, LARGEST = 128 * 2**20, 4 * 2**30


def total_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(total, cgroup_limit()) if sys.platform == "linux" else total


def cgroup_limit(root: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """The smallest limit of the control groups that we are in (version 2, or 1); sys.maxsize without any."""
    limits = [sys.maxsize]
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            base = root if not controllers else root / "memory"
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):
                for name in ("memory.max", "memory.limit_in_bytes"):
                    with suppress(OSError, ValueError):  # "max" is none
                        limits.append(int((folder / name).read_text()))
                if folder == base:
                    break
    return min(limits)


def queue_bytes() -> int:
    """What the embedded Valkey may take where nobody has said: a sixteenth, for a while it may need twice as much.

    Of all memory, not of what is free at the start: the limit is the same each time, and a laptop has it to spare.
    """
    return max(SMALLEST, min(LARGEST, total_bytes() // SHARE))
