"""One command that is started again whenever it ends, and killed when a step of it hangs."""

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.process.processes import die_with_parent
from common.process.template import Forked, Template
from common.process.watch import Watch

logger = logging.getLogger("omni.supervise")

EXIT_CONFIGURATION = 2  # starting again would not help
STOP_S = 4.0  # whoever started us kills after 5
SHORT_LIFE_S = 2.0
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Command:
    """What is run, and what it is told of its parent."""

    name: str
    words: Sequence[str]
    step_timeout_s: float
    is_worker: bool = False  # told its predecessor's fence
    has_template: bool = False  # forked, not executed
    listen_fd: int | None = None

    @property
    def has_watch(self) -> bool:
        return self.is_worker or self.listen_fd is not None


class Child:
    """tick() does whatever is due; nothing here waits."""

    def __init__(self, command: Command, clock: Callable[[], float] = time.monotonic) -> None:
        self.command = command
        self.watch = Watch(command.step_timeout_s) if command.has_watch else None
        self.status: int | None = None  # with which it ended for good
        self._clock = clock
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._template = Template(command.words, self._fds, clock) if command.has_template else None
        self._start_at = clock()
        self._began = 0.0
        self._num_short_lives = 0
        self._kill_at: float | None = None  # it was asked to leave, and has so long

    @property
    def is_ready(self) -> bool:
        return self.watch is not None and self.watch.is_ready

    def tick(self) -> None:
        if self.watch is not None:
            self.watch.listen()
        if self._process is not None and (status := self._process.poll()) is not None:
            self._ended(status)
        if self._process is None:
            if self.status is None and self._clock() >= self._start_at:
                self._start()
        elif self.watch is not None and self.watch.is_stuck:
            logger.error("%s: a step took longer than %s s; killing it", self.command.name, self.watch.step_timeout_s)
            self._process.kill()
        elif self._kill_at is not None and self._clock() >= self._kill_at:
            self._process.kill()
        if self._template is not None and self._kill_at is None:
            self._template.tick(self._process if isinstance(self._process, Forked) else None)

    def leave(self) -> None:
        """Ask it to end, for good."""
        if self._kill_at is None:
            self._kill_at = self._clock() + STOP_S
            if self._process is None:
                self.status = 0
            elif self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if self._template is not None:
            self._template.end()
        if self.watch is not None:
            self.watch.close()

    @property
    def _fds(self) -> list[int]:
        """What it inherits of us."""
        watched = [self.watch.write_fd] if self.watch is not None else []
        return watched + ([self.command.listen_fd] if self.command.listen_fd is not None else [])

    def _start(self) -> None:
        extra: list[str] = []
        if self.watch is not None:
            extra += ["--watch-fd", str(self.watch.write_fd)]
            if self.command.is_worker:
                extra += ["--predecessor", str(self.watch.fence)]
        if self.command.listen_fd is not None:
            extra += ["--listen-fd", str(self.command.listen_fd)]
        self._began = self._clock()
        if self._template is not None:
            self._process = self._template.fork(extra)
        else:
            command = [*self.command.words, *extra]
            self._process = subprocess.Popen(command, pass_fds=self._fds, preexec_fn=die_with_parent)

    def _ended(self, status: int) -> None:
        was_ready = self.watch is not None and self.watch.forget_child()
        self._process = None
        if self._kill_at is not None or status == EXIT_CONFIGURATION:
            self.status = status
            return
        lived_s = self._clock() - self._began
        has_served = was_ready if self.watch is not None else lived_s >= SHORT_LIFE_S
        self._num_short_lives = 0 if has_served else self._num_short_lives + 1
        pause_s = 0.0 if has_served else min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**self._num_short_lives)
        self._start_at = self._clock() + pause_s
        logger.warning("%s ended with status %s after %.0f s; starting it again", self.command.name, status, lived_s)
