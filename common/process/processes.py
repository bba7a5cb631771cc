"""Linux process control: children that never outlive their parent, and orphans that it can reap."""

import ctypes
import os
import signal
import sys
from collections.abc import Container
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send this signal when the parent dies. Linux only. For a child, before exec or at its start."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def parent_of(pid: int) -> int:
    """The parent's pid; 0 if the process has ended or this is not Linux."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True


def set_process_name(name: str) -> None:
    """The name that ps and top show; at most 15 bytes. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def adopt_orphans() -> None:
    """Become a subreaper: orphaned descendants become children of this process. Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(own: Container[int]) -> None:
    """Reap dead children, except the pids in `own`, which are waited for elsewhere."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        os.waitpid(found.si_pid, 0)
