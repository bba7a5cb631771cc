"""A GPU as a whole: which one, whether it still works, and how numbers come and go without anybody waiting."""

from collections.abc import Sequence as Seq

import torch


def choose_device(name: str) -> torch.device:
    """ "auto", or a name of torch's. Raises ValueError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is not a device; auto, cpu, cuda and cuda:1 are.") from error
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ValueError(f"there is no device {name}: torch {torch.__version__} sees {num_gpus} GPUs. Try omni doctor.")
    return device


def use_device(device: torch.device) -> None:
    """Make it the one that streams and graphs belong to, which know no other way to be told."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same numbers on the device. A GPU copies them when it comes to it: `values` must not change meanwhile."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class ReadBack:
    """Tensors on their way to Python: asked for now, waited for when they are read, and for nothing queued later."""

    def __init__(self, tensors: Seq[torch.Tensor]) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._event: torch.cuda.Event | None = None
        if any(tensor.device.type == "cuda" for tensor in tensors):
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[torch.Tensor]:
        """On the CPU, in the order given. Raises RuntimeError when the GPU is lost."""
        if self._event is not None:
            self._event.synchronize()
        return self._copies


def check_device() -> None:
    """Free what a failed step left behind. Raises RuntimeError when the GPU takes no more work.

    After an illegal access every later call of the process fails as well: the process must end, and be started again.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
