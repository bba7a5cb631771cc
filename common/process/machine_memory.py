"""Memory of this machine, or of this process's container if that has less."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
VERSIONS = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
SHARE = 16
SMALLEST, LARGEST = 128 * 2**20, 4 * 2**30


def total_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(total, cgroup_limit()) if sys.platform == "linux" else total


def cgroup_limit(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """The smallest limit of this process's control groups; sys.maxsize without any."""
    return min([sys.maxsize, *(group.limit for group in memory_groups(root, membership))])


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group that limits memory."""

    limit: int
    used: int
    reclaimable: int  # the part of `used` that is file cache

    @property
    def left(self) -> int:
        return max(0, self.limit - max(0, self.used - self.reclaimable))


def memory_groups(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[MemoryGroup]:
    """This process's control groups with a limit (version 2 or 1), from the innermost to the root."""
    for folder in own_groups("memory", root, membership):
        yield from limits_of(folder)


def own_groups(controller: str, root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """The folders of this process's control groups (version 2 or 1), from the innermost to the root."""
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            base = root if not controllers else root / controller
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):
                yield folder
                if folder == base:
                    break


def limits_of(folder: Path) -> Iterator[MemoryGroup]:
    for limit, usage, prefix in VERSIONS:
        with suppress(OSError, ValueError):  # "max" is no limit
            most = int((folder / limit).read_text())
            used, stat = 0, {}
            with suppress(OSError, ValueError):
                used = int((folder / usage).read_text())
                lines = (folder / "memory.stat").read_text().splitlines()
                stat = {name: int(number) for name, number in (line.split(" ", 1) for line in lines)}
            reclaimable = stat.get(f"{prefix}active_file", 0) + stat.get(f"{prefix}inactive_file", 0)
            yield MemoryGroup(most, used, reclaimable)


def available_bytes(root: Path = CGROUPS, proc: Path = Path("/proc")) -> int:
    """Bytes that can be allocated without swapping, within the control groups' limits."""
    return min([free_bytes(proc), *(group.left for group in memory_groups(root, proc / "self" / "cgroup"))])


def free_bytes(proc: Path = Path("/proc")) -> int:
    """MemAvailable on Linux; elsewhere free memory, or total memory where the system does not report that."""
    with suppress(OSError, KeyError, ValueError):
        lines = (proc / "meminfo").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def queue_bytes() -> int:
    """The default of OMNI_MAX_MEMORY: a sixteenth of all memory, because a rewrite of the file may need twice as much.

    It depends on total memory, not on free memory, so that the limit is the same at each start.
    """
    return max(SMALLEST, min(LARGEST, total_bytes() // SHARE))
