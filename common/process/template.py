"""The supervisor's side of a template: a process that has imported everything a worker needs and forks workers.

The template is started with --template-fd N, one end of a socket. A request is a list of extra command line words for a
worker; the reply is the pid of the new process (worker/template.py). The supervisor is a child subreaper, so the new
process becomes its own child: it can wait for it, and the process survives the template's death.
"""

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from common.environment import child_environment
from common.process.processes import adopt_orphans, die_with_parent, reap_orphans

logger = logging.getLogger("omni.supervise")

GPUS_BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"  # torch looks for GPUs without initializing CUDA
PAUSE_S = 5.0  # before a dead template is restarted


class Forked:
    """A process requested from a template, with the interface of subprocess.Popen; `pid` is None until it is forked."""

    def __init__(self, template: "subprocess.Popen[bytes]", near_end: socket.socket) -> None:
        self.returncode: int | None = None
        self.pid: int | None = None
        self._template = template
        self._socket = near_end

    def poll(self) -> int | None:
        if self.pid is None:
            self._read_pid()
        if self.pid is not None and self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def _read_pid(self) -> None:
        try:
            answer = self._socket.recv(64)
        except BlockingIOError:
            return
        except ConnectionError:
            answer = b""
        if answer:
            self.pid = int(answer)
        elif self.returncode is None:
            self.returncode = self._template.wait() or 1  # the template ended before the fork

    def send_signal(self, number: int) -> None:
        """Signal the process; if it is not forked yet, kill the template so that it never is."""
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
        self._socket: socket.socket | None = None
        self._start_at: float | None = None  # when to restart a dead template
        adopt_orphans()

    def fork(self, words: Sequence[str]) -> Forked:
        """Request a process with these words added to its command line. Does not wait for it."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._socket is not None
        try:
            self._socket.send("\0".join(words).encode())
        except OSError:
            logger.warning("the template died before it could fork a worker")
        return Forked(self._process, self._socket)

    def tick(self, worker: Forked | None, other_pid: int = 0) -> None:
        """Restart a dead template when it is due, and reap orphans that workers left behind.

        `other_pid`: of a child of this process that is waited for elsewhere.
        """
        if self._process is None:
            return
        if worker is not None and worker.pid is None and worker.returncode is None:
            return  # reaping could take this worker, whose pid is not known yet
        if self._process.poll() is None:
            self._start_at = None
        elif self._start_at is None:
            logger.warning("the template of workers ended with status %s", self._process.returncode)
            self._start_at = self._clock() + PAUSE_S
        elif self._clock() >= self._start_at:
            self._start()
        worker_pid = worker.pid if worker is not None and worker.pid is not None else 0
        reap_orphans({self._process.pid, worker_pid, other_pid})

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._socket is not None:
            self._socket.close()

    def _start(self) -> None:
        self.end()
        self._socket, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with far_end:
            command = [*self._words, "--template-fd", str(far_end.fileno())]
            fds = [*self._fds, far_end.fileno()]
            environment = child_environment(**{GPUS_BY_NVML: "1"})
            self._process = subprocess.Popen(command, env=environment, pass_fds=fds, preexec_fn=die_with_parent)
        self._start_at = None
