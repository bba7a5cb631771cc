"""The embedded Valkey's default share of this machine, or of the container it is in."""

import sys
from pathlib import Path

import pytest

from common import machine_memory
from common.machine_memory import LARGEST, SMALLEST, cgroup_limit, queue_bytes


@pytest.mark.parametrize(
    ("total", "share"), [(2**30, SMALLEST), (8 * 2**30, 2**29), (16 * 2**30, 2**30), (2**40, LARGEST)]
)
def test_valkey_gets_a_sixteenth_within_bounds(monkeypatch: pytest.MonkeyPatch, total: int, share: int) -> None:
    monkeypatch.setattr(machine_memory, "total_bytes", lambda: total)
    assert queue_bytes() == share


def test_a_containers_limit_is_the_least_of_all_groups_above_it(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    inner = tmp_path / "root" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{3 * 2**30}\n")
    assert cgroup_limit(tmp_path / "root", membership) == 3 * 2**30
    assert cgroup_limit(tmp_path / "root", tmp_path / "nothing") == sys.maxsize


def test_the_older_kind_of_group_counts_too(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("7:cpu:/x\n4:memory:/x\n0::/\n")
    folder = tmp_path / "root" / "memory" / "x"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{2**30}\n")
    assert cgroup_limit(tmp_path / "root", membership) == 2**30
