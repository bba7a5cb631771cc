"""The memory that models of this process may take, on a GPU or on the machine."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from common.process.machine_memory import available_bytes, total_bytes

CPU_SHARE = 0.9  # of the memory that is available; the rest is for steps and for what loading takes in passing
MIN_CPU_KV = 2**30
STATUS = Path("/proc/self/status")


class DeviceMemory(Protocol):
    """All in bytes. `holds_kept`: kept weights lie in this memory, and are loaded by mapping them.

    `is_elastic`: memory for keys and values can pass from one model to another while both are loaded.
    """

    holds_kept: bool
    is_elastic: bool
    device: str

    def capacity(self, droppable: int) -> int:
        """For all models of this process together: what they have, and what is left. `droppable`: kept, not loaded."""

    def left(self, mapped: int = 0) -> int:
        """That can be taken now. `mapped`: of files that loaded models read at each step."""

    def most_mapped(self) -> int:
        """Of such files, beside this memory."""

    def used_bytes(self) -> int:
        """By this process, for whatever it is."""

    def most_kv(self, weights: int) -> int:
        """The most for the keys and values of a model with such weights."""

    def return_freed(self) -> None:
        """What was freed goes back to the system, or to other processes on the GPU."""


class MachineMemory:
    """Of the machine, or of this process's container if that has less."""

    holds_kept = is_elastic = True
    device = "cpu"

    def __init__(self) -> None:
        self._base = resident_bytes()  # of Python and its libraries

    def capacity(self, droppable: int) -> int:
        own = max(0, resident_bytes() - self._base)
        return int(CPU_SHARE * (available_bytes() + own + droppable))

    def left(self, mapped: int = 0) -> int:
        return available_bytes() - mapped  # the system would give up their pages

    def most_mapped(self) -> int:
        return sys.maxsize  # they are part of this memory

    def used_bytes(self) -> int:
        return resident_bytes()

    def most_kv(self, weights: int) -> int:
        return max(MIN_CPU_KV, weights)

    def return_freed(self) -> None:
        from worker.device import return_memory

        return_memory()


class GpuMemory:
    """Of one GPU: this process's share (OMNI_GPU_MEMORY_UTILIZATION), without what other processes use of it."""

    holds_kept = False

    def __init__(self, device: Any, share: float, *, is_elastic: bool) -> None:
        self.is_elastic = is_elastic
        self.device = str(device)
        self._device = device
        self._share = share

    def capacity(self, droppable: int) -> int:
        free, total, own = self._measured()
        return int(total * self._share) - max(0, total - free - own)

    def left(self, mapped: int = 0) -> int:
        free, total, own = self._measured()
        return min(free, int(total * self._share) - (total - free))

    def most_mapped(self) -> int:
        return int(CPU_SHARE * total_bytes())

    def used_bytes(self) -> int:
        return self._measured()[2]

    def most_kv(self, weights: int) -> int:
        return sys.maxsize

    def return_freed(self) -> None:
        from worker.device import return_memory

        return_memory()

    def _measured(self) -> tuple[int, int, int]:
        """Free, in all, and of this process."""
        import torch

        from worker.gpu_memory.arena import mapped_bytes

        free, total = torch.cuda.mem_get_info(self._device)
        own = torch.cuda.memory_reserved(self._device) + (mapped_bytes(self._device) if self.is_elastic else 0)
        return free, total, own


def memory_of(device_name: str, gpu_share: float, *, may_sleep: bool) -> DeviceMemory:
    """Of the device that OMNI_DEVICE names; `may_sleep`: models may leave a GPU and return. Raises NoSuchDevice."""
    from worker.device import choose_device
    from worker.gpu_memory.arena import arena_of

    device = choose_device(device_name)
    if device.type != "cuda":
        return MachineMemory()
    arena = arena_of(device) if may_sleep else None
    return GpuMemory(device, gpu_share, is_elastic=arena is not None and arena.is_elastic)


def resident_bytes(status: Path = STATUS) -> int:
    """Pages of this process that are no file's: its own and shared ones. 0 where the system does not tell."""
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return sum(int(lines[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
    return 0
