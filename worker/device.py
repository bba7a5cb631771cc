"""The device: its choice, asynchronous copies to and from it, and a check that it still works."""

import ctypes
import gc
import os
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import suppress
from pathlib import Path

import torch

from common.process.machine_memory import CGROUPS, MEMBERSHIP, own_groups


class NoSuchDevice(ValueError):
    """The machine has no such device, or torch cannot use it."""


def choose_device(name: str) -> torch.device:
    """The device of a torch name, or for "auto" a GPU if there is one. Raises NoSuchDevice."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise NoSuchDevice(f"{name!r} is not a device; auto, cpu, cuda and cuda:N are.") from error
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise NoSuchDevice(
            f"there is no device {name}: torch {torch.__version__} sees {num_gpus} GPUs. Try omni doctor."
        )
    return device


def use_device(device: torch.device) -> None:
    """Make this the current CUDA device; streams and graphs use it implicitly."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def usable_cores(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Cores of the CPU that this process may run on, or as many as its control groups give it the time of."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in own_groups("cpu", root, membership) for quota in quotas_of(folder)]
    return max(1, int(min([cores, *quotas])))


def quotas_of(folder: Path) -> Iterator[float]:
    """Of a control group, in cores."""
    with suppress(OSError, ValueError):  # "max" is no limit
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = (folder / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:  # -1 is no limit
            yield int(quota) / int((folder / "cpu.cfs_period_us").read_text())


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device. The copy is asynchronous on CUDA: do not modify `values` afterwards."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class ReadBack:
    """Asynchronous copies to the CPU. read() waits for these copies only, not for work that was enqueued after them."""

    def __init__(self, tensors: Seq[torch.Tensor]) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._event: torch.cuda.Event | None = None
        if any(tensor.device.type == "cuda" for tensor in tensors):
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[torch.Tensor]:
        """The tensors on the CPU, in order. Raises RuntimeError when the GPU is lost."""
        if self._event is not None:
            self._event.synchronize()
        return self._copies


def check_device() -> None:
    """Free the memory that a failed step left. Raises RuntimeError when the GPU is lost.

    After an illegal access every later CUDA call of the process fails too: the process must end and be started again.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def used_bytes(device: torch.device) -> int:
    """Of a GPU, by torch's allocator in this process; 0 on a CPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def return_memory() -> None:
    """Give the memory of dropped tensors, and of objects that hold each other, back to the system."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
