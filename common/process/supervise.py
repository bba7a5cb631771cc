"""A small parent: starts its child again when it dies, kills it when a step hangs, passes signals on.

    python -m common.process.supervise api --listen -- python -m api.server
    python -m common.process.supervise worker --watch --template -- python -m worker.main

With --watch the child is given a pipe (--watch-fd N) on which it says `fence N`, `begin`, `end`; a step that lasts
longer than OMNI_STEP_TIMEOUT is ended with SIGKILL, which no stuck driver or held GIL can withstand. The successor is
told the fence of the process that is dead (--predecessor N), so that it need not wait for a lease to run out.

With --template the command is run once, to import all that it needs, and each child is forked from that process
(common/process/template.py): a successor need not import anything. Where that cannot be (can_fork), it
is as without.

With --listen this parent holds the port for OMNI_API_PROCESSES children (--listen-fd N), with `--listen dashboard` that
of the dashboard for its one. SIGHUP replaces them in turn:
a new one is started, and when it has said `ready` an old one is asked to leave; the port is never closed meanwhile.
"""

import argparse
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

from common.logs import set_up_logging
from common.process.child import EXIT_CONFIGURATION, Child, Command
from common.process.listener import Address, AddressTaken, listen
from common.process.processes import die_with_parent, follow, parent_of
from common.settings import Settings, log_format, refuse, settings_or_exit, started_by_honcho, torchrun_place

logger = logging.getLogger("omni.supervise")

POLL_S = 0.25  # a child's end and its first words are heard at once; steps and clocks are looked at this often


class Supervisor:
    """Runs copies of one command for as long as the service runs."""

    def __init__(self, make: Callable[[], Child], copies: int, listener: socket.socket | None) -> None:
        self.children = [make() for _ in range(copies)]
        self.is_stopping = False
        self._make = make
        self._listener = listener
        self._leaving: list[Child] = []
        self._to_replace: list[Child] = []
        self._successor: Child | None = None
        self._must_stop = False
        self._must_replace = False
        self._wake_fd, self._told_fd = os.pipe()
        for fd in (self._wake_fd, self._told_fd):
            os.set_blocking(fd, False)

    def heed_signals(self) -> None:
        signal.set_wakeup_fd(self._told_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that it wakes us
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        """A signal may come in the middle of anything; the loop obeys."""
        if number == signal.SIGHUP:
            self._must_replace = True
        else:
            self._must_stop = True

    def run(self) -> int:
        """Until stop(), or until a child says that starting it again would not help; returns the exit status."""
        status = 0
        while self._everybody():
            self._wait()
            self._obey()
            for child in self._everybody():
                child.tick()
            if any(child.status == EXIT_CONFIGURATION for child in self.children):
                status = EXIT_CONFIGURATION
                self.stop()
            self._part_with_the_dead()
            self._go_on_replacing()
        return status

    def _obey(self) -> None:
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
        for child in self._everybody():
            child.leave()

    def replace(self) -> None:
        """One child after the other, each when its successor is ready."""
        if self._listener is not None and not self.is_stopping:
            self._to_replace = list(self.children)

    def _everybody(self) -> list[Child]:
        return [*self.children, *self._leaving, *([self._successor] if self._successor else [])]

    def _wait(self) -> None:
        # who is ready tells of every step, and is heard by the clock: waking for each would cost the step
        starting = [child.watch for child in self._everybody() if child.watch is not None and not child.is_ready]
        heard = [watch.read_fd for watch in starting]
        ready, _, _ = select.select([self._wake_fd, *heard], [], [], POLL_S)
        if self._wake_fd in ready:
            os.read(self._wake_fd, 4096)

    def _part_with_the_dead(self) -> None:
        gone = [child for child in self._everybody() if child.status is not None]
        for child in gone:
            child.close()
        self.children = [child for child in self.children if child not in gone]
        self._leaving = [child for child in self._leaving if child not in gone]
        if self._successor in gone:
            if not self.is_stopping:
                logger.error("the new process does not start; the old ones stay")
            self._successor, self._to_replace = None, []

    def _go_on_replacing(self) -> None:
        if self.is_stopping or not self._to_replace or self._leaving:
            return
        if self._successor is None:
            self._successor = self._make()
        elif self._successor.is_ready:
            old = self._to_replace.pop(0)
            old.leave()
            self._leaving.append(old)
            self.children[self.children.index(old)] = self._successor
            self._successor = None


def address_of(settings: Settings, holds: str) -> tuple[Address, int]:
    """What --listen names, and how many processes share it."""
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


def wait_for_the_end() -> int:
    """Stay without a child until we are told to go: all processes of a Procfile end when one does."""
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
    set_up_logging(log_format())
    if args.needed and not settings.embedding.source:
        return wait_for_the_end()
    try:
        supervisor = supervisor_of(args.name, words, settings, watch=args.watch, forks=args.template, holds=args.holds)
    except AddressTaken as error:
        refuse(str(error))
    supervisor.heed_signals()
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
