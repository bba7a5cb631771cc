"""How much memory this process could still take: the machine's, or what its control groups leave it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """What can be had without swapping: file caches are given up for it, so they count as free."""
    return min([machine_bytes(proc), *group_bytes(proc, cgroups)])


def machine_bytes(proc: Path = PROC) -> int:
    """MemAvailable on Linux; elsewhere what is free, or all there is where not even that is told."""
    with suppress(OSError, KeyError, ValueError):
        lines = (proc / "meminfo").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def group_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[int]:
    """What each control group (version 2) from ours up to the root leaves, where it has a limit."""
    with suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if (number, controllers) == ("0", ""):
                group = cgroups / path.lstrip("/")
                for folder in (group, *group.parents):
                    if folder.is_relative_to(cgroups):
                        yield from left_in(folder)


def left_in(group: Path) -> Iterator[int]:
    with suppress(OSError, ValueError, KeyError):
        limit = int((group / "memory.max").read_text())  # "max" is none
        lines = (group / "memory.stat").read_text().splitlines()
        stat = dict(line.split(" ", 1) for line in lines)
        reclaimable = int(stat["active_file"]) + int(stat["inactive_file"])
        yield max(0, limit - max(0, int((group / "memory.current").read_text()) - reclaimable))
