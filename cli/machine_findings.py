"""What `omni doctor` finds of the machine: Python, packages, GPU."""

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from cli.serve import ROOT

MIN_PYTHON = (3, 11)
NVIDIA_SMI_S = 20


@dataclass(frozen=True, slots=True)
class Finding:
    level: Literal["good", "warn", "bad"]
    what: str
    todo: str = ""


def python_finding() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < MIN_PYTHON:
        return Finding("bad", f"Python {version}", "Install Python 3.11 or newer and run make again.")
    return Finding("good", f"Python {version}")


def package_finding() -> Finding:
    wrong = []
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        name, _, version = line.partition("#")[0].strip().partition("==")
        if not name:
            continue
        try:
            installed = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            installed = "missing"
        if installed != version:
            wrong.append(f"{name} {installed} (wanted {version})")
    if wrong:
        return Finding("bad", f"packages: {', '.join(wrong)}", "Run: make -B .venv/.run")
    return Finding("good", "packages match requirements.txt")


def gpu_finding() -> Finding:
    """Of a driver that hangs, too: nothing here may wait for it, or fail with it."""
    try:
        return seen_gpu()
    except subprocess.TimeoutExpired:
        what = f"there is a GPU, but nvidia-smi does not answer within {NVIDIA_SMI_S} s: the driver hangs"
    except (RuntimeError, OSError) as error:
        what = f"there is a GPU, but it does not answer: {' '.join(str(error).split())[:200]}"
    return Finding("bad", what, "dmesg tells why (look for NVRM and Xid); restart the machine.")


def seen_gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        what = f"GPU: {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, torch {torch.__version__}"
        if missing := missing_for_triton():
            todo = "Install gcc and the headers of Python (on Debian: gcc and python3-dev)."
            return Finding("warn", f"{what}; it will be slow: there is no {' and no '.join(missing)}", todo)
        return Finding("good", what)
    if not has_nvidia_gpu():
        return Finding("warn", f"no GPU; torch {torch.__version__} runs on the CPU", "Fine for small models.")
    if torch.version.cuda is None:
        todo = "Run: .venv/bin/python -m pip uninstall -y torch; make -B .venv/.run"
        return Finding("bad", f"there is a GPU, but torch {torch.__version__} is a build without CUDA", todo)
    todo = "Compare the driver (nvidia-smi) with the CUDA version of torch, and install a newer driver."
    return Finding(
        "bad", f"there is a GPU, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it", todo
    )


def missing_for_triton() -> list[str]:
    """What Triton compiles its launchers with, and is not here."""
    missing = [] if any(map(shutil.which, ("cc", "gcc", "clang"))) else ["C compiler"]
    return missing + ([] if Path(sysconfig.get_path("include"), "Python.h").exists() else ["Python.h"])


def has_nvidia_gpu() -> bool:
    if (tool := shutil.which("nvidia-smi")) is None:
        return False
    return subprocess.run([tool, "-L"], capture_output=True, timeout=NVIDIA_SMI_S).stdout.startswith(b"GPU")
