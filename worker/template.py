"""The template's side of common/process/template.py: a process with everything imported and no thread, which forks.

What is forked shares its memory as long as neither writes there: a worker that follows on a dead one is there in
milliseconds, and a template costs little beside it.
"""

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from typing import NoReturn

from common.process.processes import die_with_parent, set_process_name
from common.process.template import GPUS_BY_NVML
from common.settings import forget

logger = logging.getLogger("omni.worker")

CUDA_ERROR_NOT_INITIALIZED = 3


def fork_when_asked(fd: int) -> list[str]:
    """Answer each request on this socket with the pid of a new process; returns in that, with the words asked for."""
    set_process_name("omni-template")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    supervisor = os.getppid()
    gc.collect()
    gc.freeze()  # a collection in a worker would write to all of these pages
    with socket.socket(fileno=fd) as door:
        while request := door.recv(65536):
            if is_forked(door, supervisor):
                words = request.decode().split("\0")
                if uses_cuda():
                    start_anew(words)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                return words
    sys.exit(0)


def uses_cuda() -> bool:
    """The driver has been started in this process or before the fork: it works in no process forked since."""
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != CUDA_ERROR_NOT_INITIALIZED)


def start_anew(words: list[str]) -> NoReturn:
    """Become what would have been started without a template: slower, and always right."""
    logger.warning("something that was imported has started CUDA; this worker is not forked but imports it again")
    command = list(sys.orig_argv)
    place = command.index("--template-fd")
    command[place : place + 2] = words
    os.execv(sys.executable, command)


def is_forked(door: socket.socket, supervisor: int) -> bool:
    """Fork; True in the new process. It is our grandchild, an orphan that the supervisor adopts."""
    pid_reader, pid_writer = os.pipe()
    go_reader, go_writer = os.pipe()
    between = os.fork()
    if between == 0 and beget(pid_writer):
        os.close(pid_reader)
        os.close(pid_writer)
        os.close(go_writer)
        return is_adopted(go_reader, supervisor)
    os.close(pid_writer)
    os.close(go_reader)
    os.waitpid(between, 0)
    pid = os.read(pid_reader, 32)
    if not pid:
        raise OSError("no process could be forked")
    door.send(pid)
    os.write(go_writer, b"\n")  # after the answer: nobody works whom the supervisor does not know
    os.close(pid_reader)
    os.close(go_writer)
    return False


def beget(pid_writer: int) -> bool:
    """Fork again and end, which leaves an orphan; returns True, and only in that."""
    try:
        pid = os.fork()
    except OSError:
        os._exit(1)
    if pid == 0:
        return True
    try:
        os.write(pid_writer, str(pid).encode())
    finally:
        os._exit(0)


def is_adopted(go_reader: int, supervisor: int) -> bool:
    """Wait until the supervisor knows us and is our parent; ends this process if that cannot be any more."""
    set_process_name("omni-worker")
    forget(GPUS_BY_NVML)
    is_known = os.read(go_reader, 1)
    os.close(go_reader)
    die_with_parent()
    if not is_known or os.getppid() != supervisor:
        os._exit(0)
    return True
