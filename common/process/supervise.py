"""A supervisor: restarts its child when it ends, kills it when a step hangs, and passes signals on.

    python -m common.process.supervise api --listen -- python -m api.server
    python -m common.process.supervise worker --watch --template -- python -m worker.main

--watch gives the child a pipe (--watch-fd N) to which it writes `fences N,N`, `begin` and `end`. A step longer than
OMNI_STEP_TIMEOUT ends with SIGKILL, which works even with a stuck driver or a held GIL. The successor gets the dead
process's fences (--predecessor N,N), so it does not wait for a lease to expire.

--template runs the command once, to import everything, and forks each child from that process (template.py), so that a
successor imports nothing. Without effect where `can_fork` is false.

--listen holds the API's port for OMNI_API_PROCESSES children (--listen-fd N); `--listen dashboard` holds the
dashboard's port for one. SIGHUP replaces the children in turn: the supervisor starts a new one and stops an old one
when the new one has written `ready`. The port stays open throughout.

Written here because process managers know no fences of a worker, no step that hangs and no template to fork.
"""

import argparse
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

from common.environment import started_by_honcho, torchrun_place
from common.logs import set_up_logging
from common.process.child import EXIT_CONFIGURATION, Child, Command
from common.process.honcho_seams import follow
from common.process.listener import Address, AddressTaken, listen
from common.process.processes import die_with_parent, parent_of
from common.settings import Settings, refuse, settings_or_exit

logger = logging.getLogger("omni.supervise")

POLL_S = 0.25  # how often steps and deadlines are checked; a child's end and its first lines wake the loop


class Supervisor:
    """Runs copies of one command for as long as the service runs."""

    def __init__(self, make: Callable[[], Child], copies: int, listener: socket.socket | None) -> None:
        self.children = [make() for _ in range(copies)]
        self.is_stopping = False
        self._make = make
        self._listener = listener
        self._stopping: list[Child] = []
        self._to_replace: list[Child] = []
        self._successor: Child | None = None
        self._must_stop = False
        self._must_replace = False
        self._wake_fd, self._signal_fd = os.pipe()
        for fd in (self._wake_fd, self._signal_fd):
            os.set_blocking(fd, False)

    def install_signals(self) -> None:
        signal.set_wakeup_fd(self._signal_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the loop through the wakeup fd
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        """Only set a flag, because a signal may interrupt anything; the loop acts on it."""
        if number == signal.SIGHUP:
            self._must_replace = True
        else:
            self._must_stop = True

    def run(self) -> int:
        """Run until stop(), or until a child's status says that a restart would not help. Returns the exit status."""
        status = 0
        while self._all():
            self._wait()
            self._handle_signals()
            for child in self._all():
                child.tick()
            if any(child.status == EXIT_CONFIGURATION for child in self.children):
                status = EXIT_CONFIGURATION
                self.stop()
            self._remove_ended()
            self._continue_replacing()
        return status

    def _handle_signals(self) -> None:
        if self._must_stop and not self.is_stopping:
            self.stop()
        if self._must_replace:
            self._must_replace = False
            self.replace()

    def stop(self) -> None:
        self.is_stopping = True
        if self._listener is not None:
            self._listener.close()
        self._to_replace = []
        for child in self._all():
            child.stop()

    def replace(self) -> None:
        """Replace the children in turn, each when its successor is ready."""
        if self._listener is not None and not self.is_stopping:
            self._to_replace = list(self.children)

    def _all(self) -> list[Child]:
        return [*self.children, *self._stopping, *([self._successor] if self._successor else [])]

    def _wait(self) -> None:
        # ready children write at every step and are read by the clock: a wake-up for each line would slow the steps
        starting = [child.watch for child in self._all() if child.watch is not None and not child.is_ready]
        pipes = [watch.read_fd for watch in starting]
        ready, _, _ = select.select([self._wake_fd, *pipes], [], [], POLL_S)
        if self._wake_fd in ready:
            os.read(self._wake_fd, 4096)

    def _remove_ended(self) -> None:
        gone = [child for child in self._all() if child.status is not None]
        for child in gone:
            child.close()
        self.children = [child for child in self.children if child not in gone]
        self._stopping = [child for child in self._stopping if child not in gone]
        if self._successor in gone:
            if not self.is_stopping:
                logger.error("the new process does not start; the old ones continue")
            self._successor, self._to_replace = None, []

    def _continue_replacing(self) -> None:
        if self.is_stopping or not self._to_replace or self._stopping:
            return
        if self._successor is None:
            self._successor = self._make()
        elif self._successor.is_ready:
            old = self._to_replace.pop(0)
            old.stop()
            self._stopping.append(old)
            self.children[self.children.index(old)] = self._successor
            self._successor = None


def address_of(settings: Settings, holds: str) -> tuple[Address, int]:
    """The address that --listen names, and the number of processes that share it."""
    if holds == "dashboard":
        return Address.of_dashboard(settings.operator.dashboard_port), 1
    return Address.of_api(settings.server.host, settings.server.port), settings.server.processes


def can_fork(settings: Settings) -> bool:
    """True where a worker may be forked from a process that has imported everything."""
    return sys.platform == "linux" and settings.model.tensor_parallel == 1 and torchrun_place() is None


def supervisor_of(
    name: str, words: list[str], settings: Settings, *, watch: bool, forks: bool, holds: str
) -> Supervisor:
    if not holds:
        has_template = forks and can_fork(settings)
        command = Command(name, words, settings.limits.step_timeout, is_worker=watch, has_template=has_template)
        return Supervisor(lambda: Child(command), 1, None)
    address, copies = address_of(settings, holds)
    listener = listen(address)
    command = Command(name, words, settings.limits.step_timeout, is_worker=watch, listen_fd=listener.fileno())
    return Supervisor(lambda: Child(command), copies, listener)


def wait_for_stop() -> int:
    """Idle without a child until SIGTERM: if one process of a Procfile ends, all end."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signal.sigwait(ends)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="common.process.supervise")
    parser.add_argument("name")
    parser.add_argument("--watch", action="store_true")
    parser.add_argument("--template", action="store_true")
    parser.add_argument("--listen", dest="holds", nargs="?", const="api", default="", choices=["api", "dashboard"])
    parser.add_argument(
        "--if", dest="needed", choices=["embedding"], help="run nothing while OMNI_EMBEDDING_MODEL is empty"
    )
    ours, words = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    args = parser.parse_args(ours)
    starter = parent_of(os.getppid())
    settings = settings_or_exit()
    die_with_parent()
    if started_by_honcho():
        follow(starter)
    set_up_logging(settings.operator.log_level)
    if args.needed and not settings.embedding.source:
        return wait_for_stop()
    try:
        supervisor = supervisor_of(args.name, words, settings, watch=args.watch, forks=args.template, holds=args.holds)
    except AddressTaken as error:
        refuse(str(error))
    supervisor.install_signals()
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
