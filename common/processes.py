"""What parent processes need: children that never outlive them, and grandchildren they can wait for."""

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Container
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """On Linux the kernel sends this signal when the parent dies. For a child before exec, or at its start."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def parent_of(pid: int) -> int:
    """0 where that cannot be told: the process has ended, or this is not Linux."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])


def follow(honcho: int) -> None:
    """End when honcho's main process does, also by SIGKILL, for one that dies with its parent.

    Our parent is not honcho itself but a child that it forked to read our output. That one ignores SIGTERM and would
    stay for ever: it is ended, and the kernel tells us.
    """
    if honcho and sys.platform == "linux":
        threading.Thread(target=_end_reader, args=(honcho, os.getppid()), name="honcho", daemon=True).start()


def _end_reader(honcho: int, reader: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
    try:
        fd = os.pidfd_open(honcho)
        select.select([fd], [], [])
    except ProcessLookupError:
        pass  # it has ended already
    except OSError:
        return  # this kernel cannot tell
    if os.getppid() == reader:
        os.kill(reader, signal.SIGKILL)


def call_ourselves(name: str) -> None:
    """What ps and top show of this process; at most 15 bytes. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def adopt_orphans() -> None:
    """From now on what a child of ours leaves behind becomes our child. Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(own: Container[int]) -> None:
    """Part with dead children that nobody else waits for; `own` are waited for elsewhere."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        os.waitpid(found.si_pid, 0)
