"""Threads side by side: each computes on one core, their tasks are bounded, and pages lie on all nodes."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from worker.device import usable_cores
from worker.models.experts import threads as ours
from worker.models.experts.threads import nodes_in, spread_memory, threads


def test_tasks_compute_on_one_core_each_and_the_first_fault_ends_all() -> None:
    torch.set_num_threads(2)
    found: list[int] = []
    with threads() as pool:
        for number in range(40):
            pool.do(lambda number=number: number * torch.get_num_threads(), found.append)
        pool.finish(found.append)
    assert sorted(found) == list(range(40)) and torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), threads() as pool:
        pool.do(lambda: 1 // 0, found.append)
        pool.finish(found.append)
    torch.set_num_threads(1)


def test_large_tasks_have_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "available_bytes", lambda: 100)
    monkeypatch.setattr(ours, "usable_cores", lambda: 8)
    names = set[str]()

    def noted() -> int:
        names.add(threading.current_thread().name)
        return 0

    with threads(25) as pool:
        for _ in range(50):
            pool.do(noted, lambda _: None)
        pool.finish(lambda _: None)
    assert len(names) <= 2  # half of the memory has room for two tasks


def test_pages_are_spread_where_there_are_several_nodes() -> None:
    assert nodes_in("0-1,3\n") == (0, 1, 3) and nodes_in("0") == (0,) and nodes_in("\n") == ()
    assert not spread_memory((0,))
    with ThreadPoolExecutor(1) as pool:  # the policy is a thread's, and must not stay with this one
        assert pool.submit(spread_memory, (0, 0)).result()  # the system call, with the one node


def test_cores_are_those_that_a_container_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    membership, inner = tmp_path / "membership", tmp_path / "root" / "a" / "b"
    inner.mkdir(parents=True)
    membership.write_text("0::/a/b\n")
    assert usable_cores(tmp_path / "root", membership) == 64
    for folder, text, cores in (
        (inner, "max 100000", 64),
        (inner.parent, "850000 100000", 8),
        (inner, "50000 100000", 1),
    ):
        (folder / "cpu.max").write_text(text)
        assert usable_cores(tmp_path / "root", membership) == cores
    older = tmp_path / "older" / "cpu" / "a"
    older.mkdir(parents=True)
    membership.write_text("4:cpu,cpuacct:/a\n")
    (older / "cpu.cfs_period_us").write_text("100000")
    for quota, cores in ((-1, 64), (300000, 3)):
        (older / "cpu.cfs_quota_us").write_text(str(quota))
        assert usable_cores(tmp_path / "older", membership) == cores
