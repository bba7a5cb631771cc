"""A small parent for one process: starts it again when it dies, kills it when a step hangs, passes signals on.

    python -m common.supervise api -- gunicorn -c api/gunicorn.py 'api.app:create_app()'
    python -m common.supervise worker --watch -- python -m worker.main

With --watch the child is given a pipe (--watch-fd N) on which it says `fence N`, `begin`, `end`; a step that lasts
longer than OMNI_STEP_TIMEOUT is ended with SIGKILL, which no stuck driver or held GIL can withstand. The successor is
told the fence of the process that is dead (--predecessor N), so that it need not wait for a lease to run out.
"""

import argparse
import logging
import os
import select
import signal
import subprocess
import sys
import time

from common.logs import set_up_logging
from common.processes import die_with_parent
from common.settings import settings_or_exit

logger = logging.getLogger("omni.supervise")

EXIT_CONFIGURATION = 2  # starting again would not help
STOP_S = 4.0  # honcho kills after 5
SHORT_LIFE_S = 2.0
MAX_PAUSE_S = 5.0
POLL_S = 0.05


class Watch:
    """What the child says of itself on the pipe."""

    def __init__(self, step_timeout_s: float) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_inheritable(self.write_fd, True)
        self.step_timeout_s = step_timeout_s
        self.fence = 0
        self._step_began: float | None = None
        self._rest = b""

    def listen(self, timeout_s: float) -> bool:
        """Take in what was said; False when nothing was."""
        ready, _, _ = select.select([self.read_fd], [], [], timeout_s)
        if not ready:
            return False
        *lines, self._rest = (self._rest + os.read(self.read_fd, 65536)).split(b"\n")
        for line in lines:
            self._hear(line)
        return True

    def _hear(self, line: bytes) -> None:
        if line.startswith(b"fence "):
            self.fence = int(line[6:])
        elif line == b"begin":
            self._step_began = time.monotonic()
        elif line == b"end":
            self._step_began = None

    @property
    def is_stuck(self) -> bool:
        return self._step_began is not None and time.monotonic() - self._step_began > self.step_timeout_s

    def forget_child(self) -> None:
        """The child is dead: its last words tell its fence, but the step it was in is over."""
        while self.listen(0.0):
            pass
        self._step_began = None
        self._rest = b""


class Supervisor:
    """Runs one command for as long as the service runs."""

    def __init__(self, name: str, command: list[str], watch: Watch | None) -> None:
        self.name = name
        self.command = command
        self.watch = watch
        self.stopping = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        pause_s = 0.0
        while not self.stopping:
            began, fence = time.monotonic(), self.fence
            status = self._run_once()
            if self.stopping or status == EXIT_CONFIGURATION:
                return 0 if self.stopping else status
            lived_s = time.monotonic() - began
            has_served = lived_s >= SHORT_LIFE_S or self.fence != fence
            pause_s = 0.0 if has_served else min(MAX_PAUSE_S, pause_s * 2 or 0.5)
            logger.warning("%s ended with status %s after %.0f s; starting it again", self.name, status, lived_s)
            time.sleep(pause_s)
        return 0

    @property
    def fence(self) -> int:
        """The latest that a child has told; a child that got one was ready to work."""
        return self.watch.fence if self.watch is not None else 0

    def stop(self, *_: object) -> None:
        self.stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _run_once(self) -> int:
        extra: list[str] = []
        fds: tuple[int, ...] = ()
        if self.watch is not None:
            extra = ["--watch-fd", str(self.watch.write_fd), "--predecessor", str(self.watch.fence)]
            fds = (self.watch.write_fd,)
        self._child = subprocess.Popen([*self.command, *extra], pass_fds=fds, preexec_fn=die_with_parent)
        return self._wait_for(self._child)

    def _wait_for(self, child: "subprocess.Popen[bytes]") -> int:
        deadline: float | None = None
        while child.poll() is None:
            if self.watch is not None:
                self.watch.listen(POLL_S)
                if self.watch.is_stuck:
                    logger.error("%s: a step took longer than %s s; killing it", self.name, self.watch.step_timeout_s)
                    child.kill()
            else:
                time.sleep(POLL_S)
            if self.stopping:
                deadline = deadline or time.monotonic() + STOP_S
                if time.monotonic() > deadline:
                    child.kill()
        if self.watch is not None:
            self.watch.forget_child()
        return child.returncode


def wait_for_the_end() -> int:
    """Stay without a child until we are told to go: honcho ends every process when one leaves."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signal.sigwait(ends)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="common.supervise")
    parser.add_argument("name")
    parser.add_argument("--watch", action="store_true")
    parser.add_argument("--if", dest="needed", metavar="SETTING", help="run nothing while this setting is empty")
    ours, command = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    args = parser.parse_args(ours)
    settings = settings_or_exit()
    die_with_parent()
    set_up_logging(settings.log_format)
    if args.needed and not getattr(settings, args.needed):
        return wait_for_the_end()
    supervisor = Supervisor(args.name, command, Watch(settings.step_timeout) if args.watch else None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
