"""Uses of honcho beyond its documented `Manager`. Re-check them when honcho is upgraded.

- `environ.parse_procfile`, `printer.Message`, `printer.Printer`, `colour.get_colours`: the Procfile's format, and the
  lines of `honcho start`. Check: the names and parameters.
- The process between honcho and a command, which reads the command's output: `follow` needs to know what it ignores and
  who waits for it. Check: tests/e2e/test_stopping.py with plain `honcho start`.

tests/test_seams.py touches each entry.
"""

import os
import select
import signal
import sys
import threading
from contextlib import suppress

from honcho.colour import get_colours
from honcho.environ import parse_procfile
from honcho.printer import Message, Printer

__all__ = ("Message", "Printer", "follow", "get_colours", "parse_procfile")


def follow(honcho: int) -> None:
    """Under plain `honcho start`: end when honcho ends, even by SIGKILL. For a process that dies with its parent.

    The parent is not honcho itself but a child that honcho forked to read the output. That reader ignores SIGTERM and
    would outlive honcho, so this kills the reader when honcho ends, and the kernel then signals this process. Nor does
    honcho notice the reader's death, so this kills honcho when the reader ends, and with it all other processes.
    """
    if honcho and sys.platform == "linux":
        threading.Thread(target=_end_together, args=(honcho, os.getppid()), name="honcho", daemon=True).start()


def _end_together(honcho: int, reader: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the main thread handles them
    honcho_fd = None
    try:
        honcho_fd = os.pidfd_open(honcho)
        select.select([honcho_fd, os.pidfd_open(reader)], [], [])
    except ProcessLookupError:
        pass  # one of them has ended already
    except OSError:
        return  # this kernel has no pidfd
    with suppress(ProcessLookupError):
        if os.getppid() == reader:  # the reader lives, so honcho has ended
            os.kill(reader, signal.SIGKILL)
        elif honcho_fd is not None:
            signal.pidfd_send_signal(honcho_fd, signal.SIGKILL)
