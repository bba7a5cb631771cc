"""What parent processes need: children that never outlive them, and grandchildren they can wait for."""

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Container
from contextlib import suppress
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
    """With plain `honcho start`: end when its main process does, also by SIGKILL, for one that dies with its parent.

    Our parent is not honcho itself but a child that it forked to read our output. That one ignores SIGTERM and would
    stay for ever: it is ended, and the kernel tells us. Honcho in turn would never notice that child's death: it is
    ended, and with it all others.
    """
    if honcho and sys.platform == "linux":
        threading.Thread(target=_end_together, args=(honcho, os.getppid()), name="honcho", daemon=True).start()


def _end_together(honcho: int, reader: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
    honcho_fd = None
    try:
        honcho_fd = os.pidfd_open(honcho)
        select.select([honcho_fd, os.pidfd_open(reader)], [], [])
    except ProcessLookupError:
        pass  # one of them has ended already
    except OSError:
        return  # this kernel cannot tell
    with suppress(ProcessLookupError):
        if os.getppid() == reader:  # it lives, so it is honcho that has ended
            os.kill(reader, signal.SIGKILL)
        elif honcho_fd is not None:
            signal.pidfd_send_signal(honcho_fd, signal.SIGKILL)


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
