"""Memory that outlives the process that filled it."""

import os
from collections.abc import Iterator

import pytest

from common.process.keeper.supervised import KeeperProcess
from tests.worker.kept.keepers import client, keeper, kill, until
from worker.kept.keep import Keep


@pytest.fixture
def process() -> Iterator[KeeperProcess]:
    with keeper() as found:
        yield found


FILL = """
memory = keep.create("weights", 8192)
memory.map()[:5] = b"hello"
"""


def test_a_successor_finds_what_a_killed_process_has_put(process: KeeperProcess) -> None:
    assert client(process, FILL + "keep.put(memory)\nos.kill(os.getpid(), 9)").returncode == -9
    memory = Keep(process.door_fd).find("weights")
    assert memory is not None and memory.num_bytes == 8192
    assert memory.map()[:5] == b"hello"


def test_what_a_killed_process_was_still_filling_is_not_found(process: KeeperProcess) -> None:
    assert client(process, FILL + "os.kill(os.getpid(), 9)").returncode == -9
    assert Keep(process.door_fd).find("weights") is None


def test_two_processes_in_turn_see_each_other_s_memory(process: KeeperProcess) -> None:
    client(process, FILL + "keep.put(memory)")
    client(process, "memory = keep.find('weights')\nmemory.map()[:5] = b'there'\nkeep.put(keep.create('kv', 100))")
    keep = Keep(process.door_fd)
    memory = keep.find("weights")
    assert memory is not None and memory.map()[:5] == b"there"
    assert set(keep.sizes()) == {"weights", "kv"}


def test_a_private_mapping_changes_nothing_for_others(process: KeeperProcess) -> None:
    keep = Keep(process.door_fd)
    memory = keep.create("weights", 4096)
    keep.put(memory)
    memory.map(is_private=True)[:4] = b"mine"
    assert memory.map()[:4] == bytes(4)


def test_what_is_dropped_or_replaced_is_not_found(process: KeeperProcess) -> None:
    keep = Keep(process.door_fd)
    keep.put(keep.create("weights", 4096))
    keep.put(keep.create("weights", 8192))
    other = Keep(process.door_fd)
    found = other.find("weights")
    assert found is not None and found.num_bytes == 8192
    keep.drop("weights")
    assert Keep(process.door_fd).find("weights") is None
    assert keep.sizes() == {}


def test_memory_counts_as_far_as_it_was_written(process: KeeperProcess) -> None:
    keep = Keep(process.door_fd)
    memory = keep.create("kv", 1 << 20)
    keep.put(memory)
    assert keep.sizes() == {"kv": 0}
    memory.map()[0] = 1
    assert Keep(process.door_fd).sizes()["kv"] >= 4096


def test_a_killed_keeper_s_successor_is_given_everything_back(process: KeeperProcess) -> None:
    keep = Keep(process.door_fd)
    memory = keep.create("weights", 4096)
    memory.map()[:5] = b"hello"
    keep.put(memory)
    kill(process)
    until(lambda: Keep(process.door_fd).find("weights") is not None)
    assert keep.find("weights") is memory, "the worker goes on"


def test_without_a_keeper_that_answers_memory_stays_within_the_process(
    process: KeeperProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.kept.keep.TIMEOUT_S", 0.1)
    assert process._process is not None
    os.kill(process.pid, 19)  # it hangs
    keep = Keep(process.door_fd)
    memory = keep.create("weights", 4096)
    keep.put(memory)
    assert keep.find("weights") is memory
    assert keep.find("other") is None
    os.kill(process.pid, 18)
    until(lambda: Keep(process.door_fd).find("weights") is not None)


def test_no_keeper_keeps_within_the_process() -> None:
    keep = Keep.none()
    memory = keep.create("weights", 4096)
    assert keep.find("weights") is None
    keep.put(memory)
    assert keep.find("weights") is memory
    assert not keep.outlives_us
    keep.drop("weights")
    assert keep.find("weights") is None


def test_where_there_are_no_memfds_memory_is_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    keep = Keep.none()
    memory = keep.create("weights", 4096)
    keep.put(memory)
    memory.map()[:2] = b"ok"
    found = keep.find("weights")
    assert found is not None and found.map()[:2] == b"ok"
    assert keep.sizes() == {"weights": 4096}
