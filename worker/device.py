"""A GPU as a whole: which one, and whether it still works."""

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


def check_device() -> None:
    """Free what a failed step left behind. Raises RuntimeError when the GPU takes no more work.

    After an illegal access every later call of the process fails as well: the process must end, and be started again.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
