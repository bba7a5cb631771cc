"""Total and available memory, and the embedded Valkey's default share."""

import sys
from pathlib import Path

import pytest

from common.process import machine_memory
from common.process.machine_memory import LARGEST, SMALLEST, available_bytes, cgroup_limit, queue_bytes

GIB = 2**30


@pytest.mark.parametrize(
    ("total", "share"), [(2**30, SMALLEST), (8 * 2**30, 2**29), (16 * 2**30, 2**30), (2**40, LARGEST)]
)
def test_valkey_gets_a_sixteenth_within_bounds(monkeypatch: pytest.MonkeyPatch, total: int, share: int) -> None:
    monkeypatch.setattr(machine_memory, "total_bytes", lambda: total)
    assert queue_bytes() == share


def test_a_containers_limit_is_the_smallest_of_its_groups(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    inner = tmp_path / "root" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{3 * 2**30}\n")
    assert cgroup_limit(tmp_path / "root", membership) == 3 * 2**30
    assert cgroup_limit(tmp_path / "root", tmp_path / "nothing") == sys.maxsize


def test_control_groups_of_version_1_count_too(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("7:cpu:/x\n4:memory:/x\n0::/\n")
    folder = tmp_path / "root" / "memory" / "x"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{2**30}\n")
    assert cgroup_limit(tmp_path / "root", membership) == 2**30


class Machine:
    """Fake /proc and /sys/fs/cgroup trees."""

    def __init__(self, folder: Path, group: str = "/a/b") -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "cgroup").write_text(f"0::{group}\n")

    def has(self, *, free: int, available: int) -> None:
        lines = {"MemTotal": 64 * GIB, "MemFree": free, "MemAvailable": available}
        text = "".join(f"{name}: {number // 1024} kB\n" for name, number in lines.items())
        (self.proc / "meminfo").write_text(text)

    def limit(self, group: str, most: str, current: int, files: int) -> None:
        """Add a control group of version 2."""
        folder = self.cgroups / group.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 1\nactive_file {files // 2}\ninactive_file {files - files // 2}\n")

    @property
    def available(self) -> int:
        return available_bytes(self.cgroups, self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_file_cache_counts_as_available(machine: Machine) -> None:
    machine.has(free=1 * GIB, available=20 * GIB)
    assert machine.available == 20 * GIB


def test_an_outer_control_group_limits_too_except_for_its_file_cache(machine: Machine) -> None:
    machine.has(free=1 * GIB, available=20 * GIB)
    machine.limit("/a/b", "max", 3 * GIB, 0)
    machine.limit("/a", str(8 * GIB), 7 * GIB, 5 * GIB)
    assert machine.available == 6 * GIB
    machine.limit("/a/b", str(4 * GIB), 3 * GIB, 2 * GIB)
    assert machine.available == 3 * GIB
    machine.limit("/a", str(2 * GIB), 3 * GIB, 0)
    assert machine.available == 0


def test_a_container_that_sees_its_group_as_the_root_is_limited(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "/")
    machine.has(free=1 * GIB, available=20 * GIB)
    machine.limit("/", str(2 * GIB), 1 * GIB, GIB // 2)
    assert machine.available == 3 * GIB // 2


def test_without_control_groups_the_machines_memory_counts(machine: Machine) -> None:
    machine.has(free=1 * GIB, available=2 * GIB)
    (machine.proc / "self" / "cgroup").unlink()
    assert machine.available == 2 * GIB
    assert available_bytes() > 0  # of this machine


def test_version_1_of_control_groups_is_read(machine: Machine) -> None:
    machine.has(free=1 * GIB, available=20 * GIB)
    (machine.proc / "self" / "cgroup").write_text("9:name=systemd:/\n4:memory:/a/b\n1:cpu:/\n0::/\n")
    folder = machine.cgroups / "memory" / "a"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{8 * GIB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{5 * GIB}\n")
    (folder / "memory.stat").write_text(f"active_file 7\ntotal_active_file {GIB}\ntotal_inactive_file {GIB}\n")
    assert machine.available == 5 * GIB
