"""The supervisor's side of the keeper, and what its process and its clients share."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from common.process.processes import die_with_parent

logger = logging.getLogger("omni.supervise")

PACKET_BYTES = 1 << 17  # of a request or reply, at most
PAUSE_S = 1.0  # between two starts of a keeper


class KeeperProcess:
    """The supervisor's side: starts the keeper, and again, empty, when it dies. Its clients put their memory back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._clock = clock
        self._start_at = clock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def door_fd(self) -> int:
        """Clients inherit it."""
        return self._near.fileno()

    @property
    def pid(self) -> int:
        """0 before the first start."""
        return self._process.pid if self._process is not None else 0

    def tick(self) -> None:
        """Start the keeper when it is due. Never blocks."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None and self._process.returncode is not None:
            logger.warning("the keeper ended with status %s; what it held is put back", self._process.returncode)
            self._process = None
        if self._clock() >= self._start_at:
            self._start_at = self._clock() + PAUSE_S
            fd = self._far.fileno()
            command = [sys.executable, "-m", "common.process.keeper", "--door-fd", str(fd)]
            self._process = subprocess.Popen(command, pass_fds=[fd], preexec_fn=die_with_parent)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._near.close()
        self._far.close()


def allocated_bytes(fd: int) -> int:
    """Memory that a memfd takes; pages that were never written take none."""
    return os.fstat(fd).st_blocks * 512
