"""Loads the C kernels of this folder, compiled once for this machine and kept in the user's cache."""

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
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from worker.kernels.torch_seams import openmp_library

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")
DTYPE_FLAGS = MappingProxyType({torch.float32: (), torch.bfloat16: ("-DBF16",)})
COMPILERS = ("cc", "gcc", "clang")
COMPILE_TIMEOUT_S = 300  # of a file, on a busy machine

POINTER, INT, LONG, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float
SIGNATURES = MappingProxyType(
    {
        "add_norm": (*[POINTER] * 4, INT, INT, FLOAT),
        "swiglu": (POINTER, POINTER, INT, INT),
        "add_shared": (*[POINTER] * 3, INT, INT),
        "rotate_and_write": (*[POINTER] * 5, FLOAT, *[POINTER] * 3, LONG, *[INT] * 5),
        "add_low_rank": (POINTER, LONG, POINTER, LONG, POINTER, INT, INT, POINTER, INT, POINTER, POINTER, INT),
        "norm_rows": (POINTER, LONG, POINTER, POINTER, INT, INT, FLOAT),
        "write_latents": (POINTER, LONG, POINTER, LONG, *[POINTER] * 3, FLOAT, *[POINTER] * 3, *[INT] * 6),
        "attend_latents": (POINTER, POINTER, INT, POINTER, POINTER, *[INT] * 4, FLOAT, INT, INT, POINTER, POINTER),
        "multiply_heads": (POINTER, POINTER, LONG, LONG, POINTER, LONG, LONG, *[INT] * 4),
        "attend": (*[POINTER] * 3, LONG, INT, POINTER, POINTER, *[INT] * 4, FLOAT, INT, POINTER, POINTER),
        "pack_codes": (POINTER, LONG, INT, INT, POINTER, POINTER),
        "decode_all": (POINTER, INT, INT, INT, POINTER),
        "multiply_exact": (POINTER, POINTER, INT, POINTER),
        "multiply_rounded": (POINTER, POINTER, INT, POINTER),
        "multiply_fine": (POINTER, POINTER, INT, POINTER),
        "multiply_dense": (*[POINTER] * 3, INT, INT, INT, POINTER),
        "multiply_narrow": (*[POINTER] * 3, INT, INT, INT, POINTER),
        "compute_experts": (POINTER,),
        "route": (*[POINTER] * 7, *[INT] * 10, FLOAT, FLOAT),
        "replay": (POINTER, INT),
        "best_way": (POINTER,),
        "open_host_worker": (POINTER,),
        "close_host_worker": (POINTER,),
        "keep_for_once": (POINTER, LONG, POINTER),
        "run_host_node": (POINTER,),
        "run_host_copy": (POINTER,),
        "compute_nothing": (POINTER,),
        "can_round": (),
        "can_multiply_pairs": (),
    }
)
REPLAYED = (
    "add_norm", "swiglu", "rotate_and_write", "attend", "multiply_exact", "multiply_rounded", "multiply_fine",
    "multiply_dense", "compute_experts", "route", "add_shared", "multiply_narrow",
    "norm_rows", "write_latents", "attend_latents", "multiply_heads",
)  # in the order of replay.c  # fmt: skip
ANSWERS = frozenset({"best_way", "can_round", "can_multiply_pairs"})  # with a whole number


class Listening(threading.local):
    """Who is told of this thread's calls of replayed kernels: a function of their name and arguments, or None."""

    to: Callable[[str, tuple[Any, ...]], None] | None = None


@cache
def listening() -> Listening:
    """The one of this process."""
    return Listening()


class NoKernels(Exception):
    """There are no kernels for this machine or dtype; the message says why."""


def load_kernels(dtype: torch.dtype) -> ctypes.CDLL:
    """The kernels for this dtype, as functions of a library. Raises NoKernels."""
    if dtype not in DTYPE_FLAGS:
        raise NoKernels(f"there are no kernels for {dtype}")
    share_thread_pool()
    try:
        library = ctypes.CDLL(str(compiled(DTYPE_FLAGS[dtype])))
    except OSError as error:
        raise NoKernels(f"the kernels cannot be loaded ({error})") from error
    for name, argtypes in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = argtypes, INT if name in ANSWERS else None
    for name in REPLAYED:
        setattr(library, name, ToldKernel(name, getattr(library, name)))
    return library


class ToldKernel:
    """A kernel, of whose calls `listening` is told."""

    def __init__(self, name: str, function: Any) -> None:
        self.name, self.function = name, function
        self.listening = listening()
        self.address: int | None = ctypes.cast(function, ctypes.c_void_p).value

    def __call__(self, *arguments: Any) -> None:
        if self.listening.to is not None:
            self.listening.to(self.name, arguments)
        self.function(*arguments)


def address_of(kernel: Any) -> int | None:
    """Of a function that `listening` may be told of, for calls by C."""
    address: int | None = kernel.address
    return address


def share_thread_pool() -> None:
    """Bind the kernels to torch's own OpenMP runtime, so that both use one pool of threads. Raises NoKernels."""
    library = openmp_library()
    if library is None:
        raise NoKernels("torch has no libgomp whose threads could be shared")
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def compiled(dtype_flags: tuple[str, ...]) -> Path:
    """The path of the library, compiled now if the cache does not have it. Raises NoKernels."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise NoKernels("there is no C compiler")
    command = [compiler, *FLAGS, *dtype_flags]
    path = cache_folder() / f"kernels-{fingerprint(command)}.so"
    if not is_only_ours(path):
        make(command, path)
    return path


def is_only_ours(path: Path) -> bool:
    """True for a file or folder that belongs to us or root and that no other user may write to: it is safe to load."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    is_plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return is_plain and found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def fingerprint(command: list[str]) -> str:
    """A hash of the sources, the command and the processor, which -march=native depends on."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))))
    digest.update("\0".join([*command, platform.machine(), processor_features()]).encode())
    return digest.hexdigest()[:16]


def processor_features() -> str:
    """The line of /proc/cpuinfo that lists the instruction sets; a name where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def make(command: list[str], path: Path) -> None:
    """Compile to a temporary file and rename it: no other process loads half a library. Raises NoKernels."""
    try:
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=path.parent) as folder:
            unfinished = Path(folder) / path.name
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # a process each
                objects = list(pool.map(partial(make_object, command, Path(folder)), sorted(FOLDER.glob("*.c"))))
            run([*command, "-shared", "-o", str(unfinished), *objects])
            os.chmod(unfinished, 0o600)  # regardless of the umask
            os.replace(unfinished, path)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoKernels(f"the kernels do not compile here ({error})") from error
    logger.info("compiled worker/kernels for this processor")


def make_object(command: list[str], folder: Path, source: Path) -> str:
    """The path of what was compiled."""
    found = str(folder / f"{source.stem}.o")
    run([*command, "-c", "-o", found, str(source)])
    return found


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S)


def cache_folder() -> Path:
    """The cache of this user, or a folder for this process where that cannot be had. Raises NoKernels."""
    folder = Path(os.path.expanduser("~")) / ".cache" / "protocol-omni"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_only_ours(folder):
            return folder
        why = f"other users may write to {folder}: the kernels are compiled again. Try: chmod go-w {folder}"
    except OSError as error:
        why = f"{folder} cannot be made ({error}): the kernels are compiled at each start. Set HOME to your own"
    logger.warning(why)
    try:
        return folder_of_this_process()
    except OSError as error:
        raise NoKernels(f"there is no folder for the kernels ({error})") from error


def folder_of_this_process() -> Path:
    """A temporary folder, removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="omni-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
