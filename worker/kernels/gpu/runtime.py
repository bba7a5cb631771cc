"""What the kernels share: how one begins while another ends, products in Triton's interpreter, fp8, a trial launch."""

import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

COMPILERS = ("cc", "gcc", "clang")
OVERLAP_CAPABILITY = (9, 0)  # of the first GPUs that start a kernel before the one before it has ended
WIDTH = 300  # characters of an error's message


def is_interpreted() -> bool:
    """True in tests: Triton's interpreter runs the kernels on a CPU, one program after the other."""
    return bool(triton.knobs.runtime.interpret)


def overlap(device: torch.device, *, starts_early: bool = True) -> dict[str, bool]:
    """Options of a launch that may start before the last kernel has ended. The kernel itself waits, by begin().

    `starts_early` False: only the kernel after it may. Programs that start early go where there is room and not evenly
    over the multiprocessors: attention of 256 programs, two for each, then takes 1.3 times as long on an H200.
    """
    overlaps = can_overlap(device)
    return {"OVERLAPS": True, "launch_pdl": True} if overlaps and starts_early else {"OVERLAPS": overlaps}


@cache
def can_overlap(device: torch.device) -> bool:
    """Asked once for a device: an unrecorded step launches hundreds of kernels, and the driver answers slowly."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= OVERLAP_CAPABILITY


@triton.jit
def begin(OVERLAPS: tl.constexpr):
    """Wait until the kernel before has ended, then let the next one start, which waits in turn for this one's end.

    All programs call it, before they read or write anything that another kernel writes, and before they may return:
    then the end of the kernel before implies that of all before it, and memory is as if they ran one after the other.
    """
    if OVERLAPS:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def dot(left, right, sums, IN_FLOAT32: tl.constexpr):
    """`sums` + left @ right, in float32. The interpreter multiplies the bit patterns of bf16, so it gets IN_FLOAT32.

    triton-lang/triton#11584. Launchers pass is_interpreted().
    """
    if IN_FLOAT32:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), sums, input_precision="ieee")
    return tl.dot(left, right, sums)


@triton.jit
def saturated(numbers):
    """float32 limited to the range of e4m3, whose numbers beyond it are NaN."""
    return tl.clamp(numbers, -448.0, 448.0)


def warps_for(block: int) -> int:
    """Warps of a program that holds `block` numbers: 16 a thread, and more only for rows beyond 8,192."""
    return max(1, min(32 if block > 16384 else 16, block // 512))


@triton.jit
def fill_kernel(out):
    tl.store(out, 1.0)


def why_no_launch(device: torch.device) -> str:
    """Empty if a kernel is compiled, launched and right; else what is wrong, and what is missing if that is known.

    Triton compiles a launcher for each kernel with a C compiler, against the headers of Python.
    """
    try:
        found = torch.zeros(1, device=device)
        fill_kernel[(1,)](found)
        if found.item() == 1:
            return ""
        error = "a kernel that writes a number does not write it"
    except Exception as raised:  # of a compiler, a driver, a folder that cannot be written
        error = f"{type(raised).__name__}: {' '.join(str(raised).split())}"[:WIDTH]
    return "; ".join([error, *missing_parts()])


def missing_parts() -> list[str]:
    """What Triton needs besides itself and is not on this machine, each with a remedy."""
    missing = []
    if not any(map(shutil.which, COMPILERS)):
        missing.append("there is no C compiler: install gcc")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        version = ".".join(map(str, sys.version_info[:2]))
        missing.append(f"there is no Python.h: install the headers of Python {version} (python{version}-dev on Debian)")
    return missing
