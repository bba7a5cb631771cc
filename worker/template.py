"""The template's side of common/process/template.py: a process with everything imported and no threads, which forks.

A forked worker shares the template's memory until one of them writes to it, so a successor starts in milliseconds and
the template costs little memory.
"""

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from typing import NoReturn

from common.environment import forget
from common.process.processes import die_with_parent, set_process_name
from common.process.template import GPUS_BY_NVML

logger = logging.getLogger("omni.worker")

CUDA_ERROR_NOT_INITIALIZED = 3


def fork_when_asked(fd: int) -> list[str]:
    """Fork once per request and reply with the pid. Returns only in the forked process, with the requested words."""
    set_process_name("omni-template")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    supervisor = os.getppid()
    gc.collect()
    gc.freeze()  # or a collection in a worker would write to all shared pages
    with socket.socket(fileno=fd) as requests:
        while request := requests.recv(65536):
            if is_forked(requests, supervisor):
                words = request.decode().split("\0")
                if uses_cuda():
                    start_without_template(words)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                return words
    sys.exit(0)


def uses_cuda() -> bool:
    """True if the CUDA driver is initialized, here or before the fork: it does not work in processes forked since."""
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != CUDA_ERROR_NOT_INITIALIZED)


def start_without_template(words: list[str]) -> NoReturn:
    """Execute the command as without a template: slower, but with a working CUDA driver."""
    logger.warning("an import has initialized CUDA; this worker starts without the template")
    command = list(sys.orig_argv)
    place = command.index("--template-fd")
    command[place : place + 2] = words
    os.execv(sys.executable, command)


def is_forked(requests: socket.socket, supervisor: int) -> bool:
    """Fork; True in the new process, a grandchild that the supervisor adopts because it is an orphan."""
    pid_reader, pid_writer = os.pipe()
    go_reader, go_writer = os.pipe()
    between = os.fork()
    if between == 0 and fork_orphan(pid_writer):
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
    requests.send(pid)
    os.write(go_writer, b"\n")  # after the reply: no process works before the supervisor has its pid
    os.close(pid_reader)
    os.close(go_writer)
    return False


def fork_orphan(pid_writer: int) -> bool:
    """Fork and end, which leaves an orphan. Returns only in the orphan, with True."""
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
    """Wait until the supervisor has the pid and is the parent; end this process if it has died."""
    set_process_name("omni-worker")
    forget(GPUS_BY_NVML)
    is_known = os.read(go_reader, 1)
    os.close(go_reader)
    die_with_parent()
    if not is_known or os.getppid() != supervisor:
        os._exit(0)
    return True
