"""Whether the device of OMNI_DEVICE can be there, as far as that is known without loading torch (seconds, 300 MB)."""

import ctypes
from importlib import metadata

DRIVER = "libcuda.so.1"


def device_fault(name: str) -> str:
    """One sentence, or nothing. The worker's torch has the last word: it knows how many GPUs there are."""
    if not name.startswith("cuda"):
        return ""
    torch = metadata.version("torch")
    if torch.endswith("+cpu"):
        return f"OMNI_DEVICE={name}: torch {torch} is a build without CUDA. Set OMNI_DEVICE=cpu, or see omni doctor."
    if "rocm" not in torch and not has_driver():
        return f"OMNI_DEVICE={name}: NVIDIA's driver is not installed ({DRIVER}). Install it, or set OMNI_DEVICE=cpu."
    return ""


def has_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True
