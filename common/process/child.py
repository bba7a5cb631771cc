"""One child process: restarted when it ends, with a growing pause, and killed when one of its steps hangs.

A child writes lines to a pipe: `fences N,N`, `ready`, `begin N` and `end` around each step under fence N,
and `load QUEUE` and `load` around the loading of a model beside others.
"""

import logging
import os
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.process.keeper.supervised import KeeperProcess
from common.process.processes import die_with_parent
from common.process.template import Forked, Template

logger = logging.getLogger("omni.supervise")

EXIT_CONFIGURATION = 2  # a restart would not help
EXIT_TRY_AGAIN = 75  # a restart may help
STOP_S = 4.0  # from SIGTERM to SIGKILL; the Procfile runner kills this process after 5
SHORT_LIFE_S = 2.0  # without a watch, a child that ran this long counts as started
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Command:
    """The command line of a child, and which options and file descriptors it gets from its supervisor."""

    name: str
    words: Sequence[str]
    step_timeout_s: float
    is_worker: bool = False  # gets --predecessor, the fences of the worker before it
    has_template: bool = False  # forked from a template instead of executed; has a keeper of its memory too
    listen_fd: int | None = None

    @property
    def has_watch(self) -> bool:
        return self.is_worker or self.listen_fd is not None


class Watch:
    """The supervisor's end of the pipe. One pipe serves a child and all its successors."""

    def __init__(self, step_timeout_s: float) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_inheritable(self.write_fd, True)
        self.step_timeout_s = step_timeout_s
        self.fences = ""  # separated by commas
        self.is_ready = False
        self.died_in = ""  # `step N` under fence N, `load TIMES QUEUE` so many times in a row, or nothing
        self._step_began: float | None = None
        self._step = self._load = ""
        self._loads: Counter[str] = Counter()  # deaths in a row by what was being loaded
        self._rest = b""

    def read(self, timeout_s: float = 0.0) -> bool:
        """Read the lines that have arrived; False if there were none."""
        ready, _, _ = select.select([self.read_fd], [], [], timeout_s)
        if not ready:
            return False
        *lines, self._rest = (self._rest + os.read(self.read_fd, 65536)).split(b"\n")
        for line in lines:
            self._take(line)
        return True

    def _take(self, line: bytes) -> None:
        if line.startswith(b"fences "):
            self.fences = line[7:].decode()
            self.is_ready = True
        elif line == b"ready":
            self.is_ready = True
        elif line.startswith(b"begin"):
            self._step_began, self._step = time.monotonic(), line[6:].decode()
        elif line.startswith(b"load"):
            self._load = line[5:].decode()
        elif line == b"end":
            self._step_began = None

    @property
    def is_stuck(self) -> bool:
        return self._step_began is not None and time.monotonic() - self._step_began > self.step_timeout_s

    def forget_child(self, *, is_death: bool = True) -> bool:
        """Read what the child wrote last and reset for its successor. Returns whether the child had been ready."""
        while self.read():
            pass
        was_ready, self.is_ready = self.is_ready, False
        step = f"step {self._step}" if self._step_began is not None else ""
        load = self._load if is_death else ""
        if was_ready or self._load or step:  # else it ended in its start, and its successor is told what it was told
            self._loads = Counter({load: self._loads[load] + 1})
            self.died_in = f"load {self._loads[load]} {load}" if load else step
        self._step_began, self._load = None, ""
        self._rest = b""
        return was_ready

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


class Child:
    """A state machine driven by tick(), which never blocks."""

    def __init__(self, command: Command, clock: Callable[[], float] = time.monotonic) -> None:
        self.command = command
        self.watch = Watch(command.step_timeout_s) if command.has_watch else None
        self.status: int | None = None  # the exit status once there will be no restart
        self._clock = clock
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._keeper = KeeperProcess(clock) if command.has_template else None
        self._template = Template(command.words, self._fds, clock) if command.has_template else None
        self._start_at = clock()
        self._began = 0.0
        self._is_killed = False  # for a step that hangs
        self._num_short_lives = 0
        self._kill_at: float | None = None  # deadline after SIGTERM, then SIGKILL

    @property
    def is_ready(self) -> bool:
        return self.watch is not None and self.watch.is_ready

    def tick(self) -> None:
        if self._keeper is not None and self._kill_at is None:
            self._keeper.tick()
        if self.watch is not None:
            self.watch.read()
        if self._process is not None and (status := self._process.poll()) is not None:
            self._on_exit(status)
        if self._process is None:
            if self.status is None and self._clock() >= self._start_at:
                self._start()
        elif self.watch is not None and self.watch.is_stuck:
            if not self._is_killed:  # it may be held in the kernel, and end long after
                logger.error(
                    "%s: a step took longer than %s s; killing it", self.command.name, self.command.step_timeout_s
                )
            self._is_killed = True
            self._process.kill()
        elif self._kill_at is not None and self._clock() >= self._kill_at:
            self._process.kill()
        if self._template is not None and self._kill_at is None:
            waited_for = self._keeper.pid if self._keeper is not None else 0
            self._template.tick(self._process if isinstance(self._process, Forked) else None, waited_for)

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after STOP_S; no restart follows."""
        if self._kill_at is None:
            self._kill_at = self._clock() + STOP_S
            if self._process is None:
                self.status = 0
            elif self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if self._template is not None:
            self._template.end()
        if self._keeper is not None:
            self._keeper.end()
        if self.watch is not None:
            self.watch.close()

    @property
    def _fds(self) -> list[int]:
        """File descriptors that the child inherits."""
        fds = [
            self.watch.write_fd if self.watch is not None else None,
            self.command.listen_fd,
            self._keeper.door_fd if self._keeper is not None else None,
        ]
        return [fd for fd in fds if fd is not None]

    def _start(self) -> None:
        extra: list[str] = []
        if self.watch is not None:
            extra += ["--watch-fd", str(self.watch.write_fd)]
            if self.command.is_worker:
                extra += ["--predecessor", self.watch.fences, "--died-in", self.watch.died_in]
        if self.command.listen_fd is not None:
            extra += ["--listen-fd", str(self.command.listen_fd)]
        if self._keeper is not None:
            extra += ["--keeper-fd", str(self._keeper.door_fd)]
        self._began, self._is_killed = self._clock(), False
        if self._template is not None:
            self._process = self._template.fork(extra)
        else:
            command = [*self.command.words, *extra]
            self._process = subprocess.Popen(command, pass_fds=self._fds, preexec_fn=die_with_parent)

    def _on_exit(self, status: int) -> None:
        is_death = status not in (0, EXIT_TRY_AGAIN)
        was_ready = self.watch is not None and self.watch.forget_child(is_death=is_death)
        self._process = None
        if self._kill_at is not None or status == EXIT_CONFIGURATION:
            self.status = status
            return
        lived_s = self._clock() - self._began
        has_served = was_ready if self.watch is not None else lived_s >= SHORT_LIFE_S
        self._num_short_lives = 0 if has_served else self._num_short_lives + 1
        pause_s = 0.0 if has_served else min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**self._num_short_lives)
        self._start_at = self._clock() + pause_s
        logger.warning("%s ended with status %s after %.0f s; restarting it", self.command.name, status, lived_s)
