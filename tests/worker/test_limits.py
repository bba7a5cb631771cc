"""How much one step takes on."""

from pathlib import Path

import pytest
import torch

from worker.free_memory import available_bytes
from worker.limits import burst_size

GIB = 2**30

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("num_parameters", "num_tokens"), [(6_000_000, 4096), (12_500_000, 2000), (146_000_000, 1024)])
def test_on_a_cpu_a_step_of_a_crowd_is_larger_for_a_smaller_model(num_parameters: int, num_tokens: int) -> None:
    assert burst_size(CPU, num_parameters, 512) == num_tokens


def test_on_a_gpu_a_step_of_a_crowd_is_like_others() -> None:
    assert burst_size(GPU, 6_000_000, 4096) == 4096


class Machine:
    """A /proc and a /sys/fs/cgroup as a kernel shows them."""

    def __init__(self, folder: Path, group: str = "/a/b") -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "cgroup").write_text(f"0::{group}\n")

    def has(self, *, free: int, available: int) -> None:
        lines = {"MemTotal": 64 * GIB, "MemFree": free, "MemAvailable": available}
        text = "".join(f"{name}: {number // 1024} kB\n" for name, number in lines.items())
        (self.proc / "meminfo").write_text(text)

    def limit(self, group: str, most: str, current: int, files: int) -> None:
        folder = self.cgroups / group.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 1\nactive_file {files // 2}\ninactive_file {files - files // 2}\n")

    @property
    def available(self) -> int:
        return available_bytes(self.proc, self.cgroups)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_the_kernel_keeps_of_files_is_free_for_us(machine: Machine) -> None:
    machine.has(free=1 * GIB, available=20 * GIB)
    assert machine.available == 20 * GIB


def test_a_control_group_above_ours_limits_us_too_but_its_file_cache_does_not(machine: Machine) -> None:
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


def test_without_control_groups_the_machine_says_all(machine: Machine) -> None:
    machine.has(free=1 * GIB, available=2 * GIB)
    (machine.proc / "self" / "cgroup").unlink()
    assert machine.available == 2 * GIB
    assert available_bytes() > 0  # of this machine
