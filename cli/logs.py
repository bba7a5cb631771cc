"""omni logs: the lines of the service's processes, from the file that `omni serve` keeps, or from another program."""

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import click
from rich.console import Console
from rich.text import Text

from cli.terminal import console, json_option, stoppable
from common.environment import callers_folder
from common.logs import plain_line
from common.process.output.log_file import files_of, log_of
from common.process.output.printers import fields_of
from common.process.procfile import commands_of

LINES = 100
POLL_S = 0.2
WHOSE = ("time", "process", "logger")
LEVELS = ("debug", "info", "warning", "error", "critical")
COLOURS = MappingProxyType({"warning": "yellow", "error": "red", "critical": "red", "debug": "dim"})
UNITS = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400})
AGO = re.compile(r"(\d{1,9})([smhd])")
ELSEWHERE = (
    "Only `omni serve` and `make run` keep it. Of systemd's units: journalctl -u 'omni-*' -o cat | omni logs -   "
    "Of containers: docker compose logs --no-log-prefix | omni logs -"
)


class Since(click.ParamType[float]):
    """How long ago, or a moment. In seconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if found := AGO.fullmatch(value):
            return time.time() - int(found[1]) * UNITS[found[2]]
        try:
            return datetime.fromisoformat(value).astimezone().timestamp()
        except ValueError:
            self.fail(f"{value!r} is no time; write 10m, 2h or 1d, or 2026-11-28T06:00.", param, ctx)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are shown."""

    processes: frozenset[str]  # empty: of all
    level: str
    since: float

    def takes(self, fields: dict[str, Any]) -> bool:
        level = fields.get("level", "info")
        return (
            (not self.processes or process_of(fields) in self.processes)
            and (level not in LEVELS or LEVELS.index(level) >= LEVELS.index(self.level))
            and (not self.since or moment_of(fields) >= self.since)
        )


@click.command()
@click.argument("sources", nargs=-1, metavar="[PROCESS]... [FILE|-]")
@click.option("--follow", "-f", is_flag=True, help="Show new lines as they come, until Ctrl-C.")
@click.option("--lines", "-n", type=click.IntRange(min=0), help=f"The last N. Default: {LINES}; all with --since.")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="This level and above.")
@click.option("--since", type=Since(), default=None, help="Lines since then: 10m, 2h, 1d, or 2026-11-28T06:00.")
@json_option
@click.pass_context
def logs(
    context: click.Context,
    sources: tuple[str, ...],
    follow: bool,
    lines: int | None,
    level: str,
    since: float | None,
    as_json: bool,
) -> None:
    """Show the service's log, or that of the named PROCESSES.

    They are redis, api, worker, embedder, dispatcher, dashboard and system, the start itself. A FILE of such lines, or
    - for what is piped in, is read in its place.

    \b
    omni logs worker -f
    omni logs --level warning --since 2h
    docker compose logs --no-log-prefix | omni logs -
    """
    file, processes = parted(sources)
    wanted = Wanted(frozenset(processes), level, since or 0.0)
    number = lines if lines is not None else None if since else LINES
    show = as_it_is if as_json else partial(shown, console())
    with stoppable(context), suppress(BrokenPipeError):
        if file == Path("-"):
            show_all(parsed(sys.stdin), wanted, number if not follow else None, show)
            return
        path = file or log_of(context.obj["settings"]().redis.data_dir)
        if not (file or files_of(path)):
            raise click.ClickException(f"there is no log at {path}. {ELSEWHERE}")
        follower = Follower(path) if follow else None
        for fields in last_of(path, wanted, number):
            show(fields)
        if follower is not None:
            show_all(follower.lines(), wanted, None, show)


def parted(sources: tuple[str, ...]) -> tuple[Path | None, list[str]]:
    """The file among the arguments, if there is one, and the processes. Raises UsageError."""
    known = [*commands_of([]), "system"]
    files = []
    for name in sources:
        path = Path("-") if name == "-" else callers_folder() / name
        if name == "-" or (name not in known and path.is_file()):
            files.append(path)
        elif name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"processes are {', '.join(known)}."
            raise click.UsageError(f"{name} is neither a process nor a file; {hint}")
    if len(files) > 1:
        raise click.UsageError("one file can be read at a time.")
    return (files[0] if files else None), [name for name in sources if name in known]


def parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """A line that is no JSON, such as a traceback's, belongs to the one before it."""
    last: dict[str, Any] = {}
    for line in lines:
        if text := line.rstrip("\n"):
            fields = fields_of(text)
            yield fields or {name: last[name] for name in WHOSE if name in last} | {"message": text}
            last = fields or last


def last_of(path: Path, wanted: Wanted, number: int | None) -> Iterator[dict[str, Any]]:
    """The last `number` lines of the log's files, or all; a file that is not needed is not read."""
    found: list[list[dict[str, Any]]] = []
    num_left = number
    for file in files_of(path):
        with suppress(FileNotFoundError), file.open(errors="replace") as lines:
            taken = deque((fields for fields in parsed(lines) if wanted.takes(fields)), num_left)
            found.append(list(taken))
            if num_left is not None and (num_left := num_left - len(taken)) == 0:
                break
    for part in reversed(found):
        yield from part


class Follower:
    """New lines of a log from now on, through the files that it begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = path.open(errors="replace") if path.exists() else None
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def lines(self) -> Iterator[dict[str, Any]]:
        rest = ""
        while True:
            newer = self._newer()  # asked first: what is written meanwhile is in this file, or read the next time
            while self._file is not None and (piece := self._file.readline()):
                rest += piece
                if rest.endswith("\n"):
                    yield from parsed([rest])
                    rest = ""
            if newer is None:
                time.sleep(POLL_S)
            else:
                if self._file is not None:
                    self._file.close()
                self._file = newer

    def _newer(self) -> IO[str] | None:
        """The file that was begun after the present one."""
        found = None
        for file in files_of(self._path):
            with suppress(FileNotFoundError):
                opened = file.open(errors="replace")
                if self._file is not None and is_same(opened, self._file):
                    opened.close()
                    break
                found = opened
        return found


def is_same(one: IO[str], other: IO[str]) -> bool:
    return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))


def show_all(
    found: Iterable[dict[str, Any]], wanted: Wanted, number: int | None, show: Callable[[dict[str, Any]], None]
) -> None:
    taken = (fields for fields in found if wanted.takes(fields))
    for fields in taken if number is None else deque(taken, number):
        show(fields)


def process_of(fields: dict[str, Any]) -> str:
    """`worker.1`, or of a line without a runner the logger `omni.worker`, as worker."""
    if process := str(fields.get("process", "")):
        return process.partition(".")[0]
    first, _, rest = str(fields.get("logger", "")).partition(".")
    return rest.partition(".")[0] if first == "omni" else first


def moment_of(fields: dict[str, Any]) -> float:
    with suppress(ValueError, TypeError, KeyError):
        return datetime.fromisoformat(fields["time"]).timestamp()
    return 0.0


def as_it_is(fields: dict[str, Any]) -> None:
    click.echo(json.dumps(fields, ensure_ascii=False))


def shown(out: Console, fields: dict[str, Any]) -> None:
    """Local time, process, level and message."""
    seconds = moment_of(fields)
    at = datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%m-%d %H:%M:%S") if seconds else ""
    level = str(fields.get("level", "info"))
    text = plain_line(fields) if "message" in fields else json.dumps(fields, ensure_ascii=False)
    name = process_of(fields)
    out.print(Text.assemble((f"{at:14}  ", "dim"), (f"{name:10}  ", "cyan"), (text, COLOURS.get(level, ""))))
