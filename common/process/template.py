"""The supervisor's side of a template: a process that has imported all a worker needs, and forks workers.

The template is started with --template-fd N, one end of a socket. Each request on it is the words to be added to a
worker's command line, the answer is the pid of a new process (worker/template.py). We adopt orphans, so that this
process is our own child: we wait for it, and it lives on when the template dies.
"""

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from common.process.processes import adopt_orphans, die_with_parent, reap_orphans
from common.settings import child_environment

logger = logging.getLogger("omni.supervise")

GPUS_BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"  # torch finds out whether there is one without starting CUDA
PAUSE_S = 5.0  # before a template that died is started again for workers to come


class Forked:
    """A process that a template was asked for, with what subprocess.Popen offers; no pid until it is forked."""

    def __init__(self, template: "subprocess.Popen[bytes]", door: socket.socket) -> None:
        self.returncode: int | None = None
        self.pid: int | None = None
        self._template = template
        self._door = door

    def poll(self) -> int | None:
        if self.pid is None:
            self._hear()
        if self.pid is not None and self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def _hear(self) -> None:
        try:
            answer = self._door.recv(64)
        except BlockingIOError:
            return
        except ConnectionError:
            answer = b""
        if answer:
            self.pid = int(answer)
        elif self.returncode is None:
            self.returncode = self._template.wait() or 1  # it ended without having forked us

    def send_signal(self, number: int) -> None:
        """To one that is not forked yet: it never will be."""
        if self.pid is None:
            self._template.kill()
            self._template.wait()
            self.poll()
        if self.pid is not None and self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Template:
    """Starts the template when it is first needed, and again when it dies."""

    def __init__(self, words: Sequence[str], fds: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._words = words
        self._fds = fds
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None
        self._start_at: float | None = None  # it died
        adopt_orphans()

    def fork(self, words: Sequence[str]) -> Forked:
        """Ask for a process with these words added to its command line; returns at once."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._door is not None
        try:
            self._door.send("\0".join(words).encode())
        except OSError:
            logger.warning("the template died as it was asked for a worker")
        return Forked(self._process, self._door)

    def tick(self, worker: Forked | None) -> None:
        """Start it again if it is due, and part with what workers left behind."""
        if self._process is None:
            return
        if worker is not None and worker.pid is None and worker.returncode is None:
            return  # the next child of ours may be this one
        if self._process.poll() is None:
            self._start_at = None
        elif self._start_at is None:
            logger.warning("the template of workers ended with status %s", self._process.returncode)
            self._start_at = self._clock() + PAUSE_S
        elif self._clock() >= self._start_at:
            self._start()
        reap_orphans({self._process.pid, worker.pid if worker is not None and worker.pid is not None else 0})

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._door is not None:
            self._door.close()

    def _start(self) -> None:
        self.end()
        self._door, its_door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.setblocking(False)
        with its_door:
            command = [*self._words, "--template-fd", str(its_door.fileno())]
            fds = [*self._fds, its_door.fileno()]
            environment = child_environment(**{GPUS_BY_NVML: "1"})
            self._process = subprocess.Popen(command, env=environment, pass_fds=fds, preexec_fn=die_with_parent)
        self._start_at = None
