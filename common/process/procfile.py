"""Runs the Procfile's processes until one of them exits, and prints their lines with the process's name in front.

    python -m common.process.procfile [--told-fd N] [PROCESS ...]

The processes write JSON lines. Where the output is no terminal they stay that, with the process's name in `process`,
and everything else that processes or this runner write is the `message` of a line. So they are also kept in the file
that the greeting names, which common/process/start.py writes into --told-fd.

A process that a signal has killed (`kill -9`, the kernel without memory, a crash in C) is started again, with all that
it had started, MAX_KILLS times in KILLS_S. One that exits by itself has said why, and ends all.

It replaces `honcho start`, with honcho's parser and printer, for three reasons: it is the direct parent of the
processes, so no process in between can die unnoticed; it never blocks on its output, so SIGTERM works without a reader
too; and honcho starts nothing again.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from common.process.honcho_seams import get_colours, parse_procfile
from common.process.output.greeting import Greeting, greet_when_ready
from common.process.output.log_file import LogFile
from common.process.output.output import DRAIN_S, Output
from common.process.output.printers import AnyPrinter, JsonPrinter, TerminalPrinter
from common.process.processes import die_with_parent

PROCFILE = Path(__file__).resolve().parents[2] / "Procfile"
STOP_S = 5.0  # from SIGTERM to SIGKILL
SUPERVISOR = "common.process.supervise"
MAX_KILLS, KILLS_S = 5, 60.0  # more of one process are a fault that a new start does not mend


class UnknownProcess(Exception):
    """One sentence with the unknown name and the known ones."""


class Group:
    """Processes that start and end together."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._colours: dict[str, str] = {}
        self._killed_at: dict[str, list[float]] = {}
        self._readers: list[threading.Thread] = []
        self._status: int | None = None  # of the first process to end, or of the signal
        self._kill_at: float | None = None
        self._wake_fd, self._signal_fd = os.pipe()

    def run(self, commands: Mapping[str, str]) -> int:
        """Run until the last process has ended. Returns the exit status of the first, or that of the signal."""
        self._install_signals()
        self._colours = dict(zip(commands, get_colours(), strict=False))
        for name, command in commands.items():
            self._start(name, command)
        for name in commands:
            self._start_reader(name)
        while self._running:
            self._tick(commands)
        deadline = time.monotonic() + DRAIN_S
        for reader in self._readers:  # a process that outlives its parent may hold the pipe open
            reader.join(max(0.0, deadline - time.monotonic()))
        return self._status or 0

    def _install_signals(self) -> None:
        os.set_blocking(self._signal_fd, False)
        signal.set_wakeup_fd(self._signal_fd, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # wakes the loop through the wakeup fd

    def _start(self, name: str, command: str) -> None:
        process = subprocess.Popen(
            command,
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the runner
            preexec_fn=die_with_parent,
        )
        self._running[name] = process
        who = "supervisor, " if SUPERVISOR in command else ""  # the process that does the work is its child
        self._print(f"{name} started ({who}pid={process.pid})")

    def _start_reader(self, name: str) -> None:
        reader = threading.Thread(target=self._read, args=(name, self._running[name]), name=name, daemon=True)
        reader.start()
        self._readers.append(reader)

    def _read(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        for line in process.stdout or ():
            self._output.write(name, line, self._colours[name])

    def _tick(self, commands: Mapping[str, str]) -> None:
        wait_s = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
        if select.select([self._wake_fd], [], [], wait_s)[0]:
            for number in os.read(self._wake_fd, 4096):
                if number != signal.SIGCHLD:
                    self._print(f"{signal.Signals(number).name} received")
                    self._end_all(128 + number)
        for name, process in list(self._running.items()):
            if (status := process.poll()) is not None:
                del self._running[name]
                is_wanted = self._kill_at is not None or status == 0
                self._print(f"{name} stopped (rc={status})", "info" if is_wanted else "warning")
                if self._kill_at is None and self._may_start_again(name, status):
                    signal_group(process.pid, signal.SIGKILL)  # its children hold its port or its folder
                    self._start(name, commands[name])
                    self._start_reader(name)
                else:
                    self._end_all(status)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._send(signal.SIGKILL)
            self._kill_at = time.monotonic() + STOP_S

    def _may_start_again(self, name: str, status: int) -> bool:
        if status >= 0 or -status in (signal.SIGTERM, signal.SIGINT):  # it is meant to end
            return False
        now = time.monotonic()
        self._killed_at[name] = [at for at in self._killed_at.get(name, ()) if at > now - KILLS_S] + [now]
        return len(self._killed_at[name]) <= MAX_KILLS

    def _end_all(self, status: int) -> None:
        if self._kill_at is None:
            self._status = status
            self._kill_at = time.monotonic() + STOP_S
            self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for name, process in self._running.items():
            self._print(f"sending {number.name} to {name} (pid {process.pid})")
            signal_group(process.pid, number)

    def _print(self, sentence: str, level: str = "info") -> None:
        line = sentence if level == "info" else json.dumps({"level": level, "message": sentence})
        self._output.write("system", line)


def signal_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def commands_of(names: Sequence[str]) -> dict[str, str]:
    """The command of each named process, or of all. Raises UnknownProcess."""
    commands: dict[str, str] = parse_procfile(PROCFILE.read_text()).processes
    if unknown := [name for name in names if name not in commands]:
        near = get_close_matches(unknown[0], commands, 1)
        hint = f"did you mean {near[0]}? It" if near else "it"
        raise UnknownProcess(f"{unknown[0]} is not a process of the Procfile; {hint} has {', '.join(commands)}.")
    return {name: commands[name] for name in names or commands}


def told(fd: int | None) -> Greeting | None:
    """The greeting that start.py wrote into a pipe before it became this program."""
    if fd is None:
        return None
    with open(fd, "rb") as pipe:
        return Greeting.decoded(pipe.read())


def printers_of(greeting: Greeting | None, width: int) -> list[AnyPrinter]:
    """Of the output, and of the file."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    if not sys.stdout.isatty():
        found: list[AnyPrinter] = [JsonPrinter(sys.stdout)]
    else:
        is_unicode = sys.stdout.encoding.lower() == "utf-8"

        def box() -> Sequence[str]:
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
            return greeting.box(columns, is_unicode=is_unicode) if greeting else ()

        found = [TerminalPrinter(sys.stdout, width, box)]
    return [*found, JsonPrinter(LogFile(Path(greeting.log)))] if greeting else found


def main() -> None:
    parser = argparse.ArgumentParser(prog="procfile")
    parser.add_argument("--told-fd", type=int)
    parser.add_argument("processes", nargs="*")
    args = parser.parse_args()
    greeting = told(args.told_fd)
    commands = {f"{name}.1": command for name, command in commands_of(args.processes).items()}
    output = Output(*printers_of(greeting, max(map(len, commands))))
    if greeting:
        greet_when_ready(greeting, output)
    status = Group(output).run(commands)
    output.close()
    os._exit(status % 256)  # a normal exit would wait for the output's reader


if __name__ == "__main__":
    main()
