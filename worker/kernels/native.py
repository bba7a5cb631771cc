"""Loads the kernels of worker/kernels, compiled once for this machine and kept in the user's cache."""

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

from worker import mallopt

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
DTYPE_FLAGS = {torch.float32: (), torch.bfloat16: ("-DBF16",)}
COMPILERS = ("cc", "gcc", "clang")
COMPILE_TIMEOUT_S = 60

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 2**28  # at the end of the heap
LARGEST_KEPT = 2**25  # the most that mallopt allows

POINTER, INT, LONG, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float
SIGNATURES = {
    "add_norm": [POINTER] * 4 + [INT, INT, FLOAT],
    "swiglu": [POINTER] * 2 + [INT, INT],
    "rotate_and_write": [POINTER] * 5 + [FLOAT] + [POINTER] * 3 + [LONG] + [INT] * 4,
    "attend": [POINTER] * 3 + [LONG, INT] + [POINTER] * 2 + [INT] * 4 + [FLOAT, INT, POINTER],
}


class NoKernels(Exception):
    """There are no kernels for this machine or dtype; the message says why."""


def load_kernels(dtype: torch.dtype) -> ctypes.CDLL:
    """The functions of worker/kernels for this dtype. Raises NoKernels."""
    if dtype not in DTYPE_FLAGS:
        raise NoKernels(f"they do not know {dtype}")
    share_thread_pool()
    try:
        library = ctypes.CDLL(str(compiled(DTYPE_FLAGS[dtype])))
    except OSError as error:
        raise NoKernels(f"the kernels cannot be loaded ({error})") from error
    for name, argtypes in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = argtypes, None
    return library


def share_thread_pool() -> None:
    """Let the kernels find torch's own OpenMP, so that both use one pool of threads. Raises NoKernels."""
    paths = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not paths:
        raise NoKernels("torch brings no libgomp whose threads could be shared")
    ctypes.CDLL(str(paths[0]), ctypes.RTLD_GLOBAL)


def keep_freed_memory() -> None:
    """Let what one step frees serve the next; else glibc may give it back, and each step begins with page faults."""
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def compiled(dtype_flags: tuple[str, ...]) -> Path:
    """The library, made now if this machine has not made it before. Raises NoKernels."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise NoKernels("there is no C compiler")
    command = [compiler, *FLAGS, *dtype_flags]
    path = cache_folder() / f"kernels-{fingerprint(command)}.so"
    if not is_only_ours(path):
        make(command, path)
    return path


def is_only_ours(path: Path) -> bool:
    """It is there, belongs to us or root, and nobody else may write to it: what it holds may run in this process."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    is_plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return is_plain and found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def fingerprint(command: list[str]) -> str:
    """Changes with the source, the command and the processor that -march=native means."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))))
    digest.update("\0".join([*command, platform.machine(), processor_features()]).encode())
    return digest.hexdigest()[:16]


def processor_features() -> str:
    """What the processor can do, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def make(command: list[str], path: Path) -> None:
    """Compile beside `path` and move into place, so that no other process loads half a file. Raises NoKernels."""
    handle, unfinished = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        sources = [str(path) for path in sorted(FOLDER.glob("*.c"))]
        subprocess.run(
            [*command, "-o", unfinished, *sources], check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S
        )
        os.chmod(unfinished, 0o600)  # whatever the umask is
        os.replace(unfinished, path)
    except (OSError, subprocess.SubprocessError) as error:
        Path(unfinished).unlink(missing_ok=True)
        raise NoKernels(f"the kernels do not compile here ({error})") from error
    logger.info("compiled worker/kernels for this processor")


def cache_folder() -> Path:
    """The user's own, or one for this process alone where others may write to that."""
    folder = Path(os.path.expanduser("~")) / ".cache" / "protocol-omni"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_only_ours(folder):
            return folder
        logger.warning("others may write to %s: the kernels are compiled anew. Try: chmod go-w %s", folder, folder)
        return folder_of_this_process()
    except OSError as error:
        raise NoKernels(f"{folder} cannot be made ({error})") from error


def folder_of_this_process() -> Path:
    """Removed at its end."""
    folder = tempfile.mkdtemp(prefix="omni-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
