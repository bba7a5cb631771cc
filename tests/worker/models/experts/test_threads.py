"""Threads side by side: each computes on one core, their tasks are bounded, and pages lie on all nodes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

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
    monkeypatch.setattr(ours.os, "sched_getaffinity", lambda _: range(8))
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
