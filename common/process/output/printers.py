"""Printers of lines: for a terminal with the process's name in front, for programs as JSON."""

import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, TextIO

from common.environment import REFUSAL, child_environment
from common.logs import plain_line
from common.process.honcho_seams import Message, Printer

GREETING = "greeting"  # a message's type; other messages are of honcho's only type, "line"


class AnyPrinter(Protocol):
    def write(self, message: Message) -> None: ...


class LineStream(Protocol):
    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...


class JsonPrinter:
    """One JSON object a line: a process's own with its name in `process`, anything else as the `message` of one."""

    def __init__(self, output: LineStream) -> None:
        self._output = output

    def write(self, message: Message) -> None:
        for line in lines_of(message):
            fields = fields_of(line) or {"level": "error" if line.startswith(REFUSAL) else "info", "message": line}
            time_of = message.time.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
            self._output.write(
                json.dumps({"time": time_of, "process": message.name} | fields, ensure_ascii=False) + "\n"
            )
        self._output.flush()


class TerminalPrinter:
    """As honcho's Printer; of lines that are JSON objects only level, message and exception."""

    def __init__(self, output: TextIO, width: int, box: Callable[[], Sequence[str]] = tuple) -> None:
        """`box`: what is shown in the place of a greeting."""
        self._output = output
        environment = child_environment()
        is_plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        self._printer = Printer(output, width=width, colour=not is_plain)
        self._box = box

    def write(self, message: Message) -> None:
        if message.type == GREETING:
            print(*self._box(), sep="\n", file=self._output, flush=True)
            return
        for line in lines_of(message):
            fields = fields_of(line)
            text = plain_line(fields) if "message" in fields else line
            self._printer.write(message._replace(data=text))


def lines_of(message: Message) -> Iterator[str]:
    text = message.data.decode(errors="replace") if isinstance(message.data, bytes) else message.data
    yield from text.splitlines()


def fields_of(line: str) -> dict[str, Any]:
    """Of a line that is a JSON object; empty for any other."""
    with suppress(ValueError, RecursionError):
        if line.startswith("{") and isinstance(found := json.loads(line), dict):
            return found
    return {}
