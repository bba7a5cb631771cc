"""Runs the Procfile's processes until one of them ends, and prints their lines with the process's name in front.

    python -m common.process.procfile [PROCESS ...]

Where the output is no terminal its lines are JSON: those of the processes with their name in `process`, and everything
else that they or this runner write as the `message` of a line.

It replaces `honcho start`, with honcho's parser and printer, for two reasons: it is the direct parent of the processes,
so no process in between can die unnoticed; and it never blocks on its output, so SIGTERM works without a reader too.
"""

import datetime
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from common.environment import log_format
from common.process.honcho_seams import Message, Printer, get_colours, parse_procfile
from common.process.processes import die_with_parent

PROCFILE = Path(__file__).resolve().parents[2] / "Procfile"
STOP_S = 5.0  # from SIGTERM to SIGKILL
DRAIN_S = 1.0  # for the last lines of the processes and of the output
MAX_UNREAD = 10_000  # lines


class UnknownProcess(Exception):
    """One sentence with the unknown name and the known ones."""


class JsonPrinter:
    """As honcho's Printer, for programs that read logs: one JSON object a line."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def write(self, message: Message) -> None:
        text = message.data.decode(errors="replace") if isinstance(message.data, bytes) else message.data
        for line in text.splitlines():
            fields = fields_of(line) or {"level": "info", "message": line}
            time_of = message.time.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
            self._output.write(
                json.dumps({"time": time_of, "process": message.name} | fields, ensure_ascii=False) + "\n"
            )
        self._output.flush()


def fields_of(line: str) -> dict[str, Any]:
    """Of a line that is a JSON object; empty for any other."""
    with suppress(ValueError, RecursionError):
        if line.startswith("{") and isinstance(found := json.loads(line), dict):
            return found
    return {}


class Output:
    """Prints lines in a thread of its own. write() never blocks; lines that the reader does not take are dropped."""

    def __init__(self, printer: Printer | JsonPrinter) -> None:
        self._printer = printer
        self._lines: queue.Queue[Message | None] = queue.Queue(MAX_UNREAD)
        self._thread = threading.Thread(target=self._print, name="output", daemon=True)
        self._thread.start()

    def write(self, name: str, line: str | bytes, colour: str | None = None) -> None:
        self._put(Message("line", line, datetime.datetime.now(), name, colour))

    def close(self) -> None:
        """Print the pending lines, for at most DRAIN_S."""
        self._put(None)
        self._thread.join(DRAIN_S)

    def _put(self, message: Message | None) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(message)

    def _print(self) -> None:
        with suppress(OSError):  # the reader has closed the pipe
            while (message := self._lines.get()) is not None:
                self._printer.write(message)


class Group:
    """Processes that start and end together."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._status: int | None = None  # of the first process to end, or of the signal
        self._kill_at: float | None = None
        self._wake_fd, self._signal_fd = os.pipe()

    def run(self, commands: Mapping[str, str]) -> int:
        """Run until the last process has ended. Returns the exit status of the first, or that of the signal."""
        self._install_signals()
        for name, command in commands.items():
            self._start(name, command)
        for (name, process), colour in zip(self._running.items(), get_colours(), strict=False):
            reader = threading.Thread(target=self._read, args=(name, process, colour), name=name, daemon=True)
            reader.start()
            self._readers.append(reader)
        while self._running:
            self._tick()
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
        self._print(f"{name} started (pid={process.pid})")

    def _read(self, name: str, process: "subprocess.Popen[bytes]", colour: str) -> None:
        for line in process.stdout or ():
            self._output.write(name, line, colour)

    def _tick(self) -> None:
        wait_s = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
        if select.select([self._wake_fd], [], [], wait_s)[0]:
            for number in os.read(self._wake_fd, 4096):
                if number != signal.SIGCHLD:
                    self._print(f"{signal.Signals(number).name} received")
                    self._end_all(128 + number)
        for name, process in list(self._running.items()):
            if (status := process.poll()) is not None:
                del self._running[name]
                self._print(f"{name} stopped (rc={status})")
                self._end_all(status)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._send(signal.SIGKILL)
            self._kill_at = time.monotonic() + STOP_S

    def _end_all(self, status: int) -> None:
        if self._kill_at is None:
            self._status = status
            self._kill_at = time.monotonic() + STOP_S
            self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for name, process in self._running.items():
            self._print(f"sending {number.name} to {name} (pid {process.pid})")
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)

    def _print(self, sentence: str) -> None:
        self._output.write("system", sentence)


def commands_of(names: Sequence[str]) -> dict[str, str]:
    """The command of each named process, or of all. Raises UnknownProcess."""
    commands: dict[str, str] = parse_procfile(PROCFILE.read_text()).processes
    if unknown := [name for name in names if name not in commands]:
        raise UnknownProcess(f"{unknown[0]} is not a process of the Procfile, which has {', '.join(commands)}.")
    return {name: commands[name] for name in names or commands}


def main() -> None:
    commands = {f"{name}.1": command for name, command in commands_of(sys.argv[1:]).items()}
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    is_plain = log_format() == "plain"
    output = Output(Printer(sys.stdout, width=max(map(len, commands))) if is_plain else JsonPrinter(sys.stdout))
    status = Group(output).run(commands)
    output.close()
    os._exit(status % 256)  # a normal exit would wait for the output's reader


if __name__ == "__main__":
    main()
