"""Output by rich: tables, markdown and colours on a terminal, plain text into files and pipes."""

import json
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import click
from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.status import Status
from rich.table import Table
from rich.text import Text

from common.environment import callers_folder
from common.shelf.table import path_from

MOST_LISTED = 100_000  # items that a command shows
STOPPED = 130  # exit status after Ctrl-C
PIPE_WIDTH = 1000  # lines for a file or a pipe are not wrapped


def console(*, stderr: bool = False, wraps: bool = False) -> Console:
    """`wraps`: between words, where the text is prose."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr, highlight=False, soft_wrap=not (wraps and is_terminal), width=None if is_terminal else PIPE_WIDTH
    )


def show_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    out = console()
    out.print(table_of(names, rows, out))


def table_of(
    names: Sequence[str], rows: Sequence[Sequence[Any]], out: Console, overflow: OverflowMethod = "fold"
) -> Table:
    """Aligned columns; None is an empty cell. On a terminal a wide cell is folded into lines of its own, or cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=not out.is_terminal or overflow != "fold", overflow=overflow)
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return table


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="As JSON.")(function)


def limit_option(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--limit",
        type=click.IntRange(1, MOST_LISTED),
        default=default,
        show_default=True,
        help="Of the newest, at most.",
    )


def note_more(limit: int, has_more: bool) -> None:
    """Says of a list that it is not the whole."""
    if has_more:
        more = min(10 * limit, MOST_LISTED)
        advice = f"; --limit {more} shows up to {more}" if more > limit else ""
        show_note(f"There are more than the newest {limit}{advice}.")


def show_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def moment(seconds: float) -> str:
    """Unix seconds as a local time."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def show_note(text: str) -> None:
    """A dim line on stderr, apart from the output."""
    console(stderr=True, wraps=True).print(Text(text, style="dim"))


def callers_path(text: str) -> Path:
    """A path as the caller means it: ./omni runs in the checkout. Raises ClickException for ~ of an unknown user."""
    try:
        return path_from(callers_folder(), text)
    except ValueError as error:
        raise click.ClickException(f"{text}: {error}.") from None


class CallersPath(click.Path):
    """A path as the caller's shell means it: ./omni runs in the checkout."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(callers_folder() / value, param, ctx)


@contextmanager
def stoppable(context: click.Context) -> Iterator[None]:
    """What goes on until Ctrl-C; then the command ends as a shell expects."""
    try:
        yield
    except KeyboardInterrupt:
        context.exit(STOPPED)


@contextmanager
def without_echo() -> Iterator[None]:
    """What is typed meanwhile, Ctrl-C too, does not show in the midst of the output; the next prompt has it."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = termios.tcgetattr(sys.stdin)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def markdown(text: str) -> RenderableType:
    from rich.markdown import Markdown  # 0.1 s that other commands need not wait

    return Markdown(text)


class AnswerView:
    """Shows an answer while it grows: as markdown on a terminal, as the bare text elsewhere, or not at all."""

    def __init__(self, *, is_shown: bool = True) -> None:
        self.text = ""
        self.thoughts = ""
        self._is_shown = is_shown
        self._console = console(wraps=True)
        self._live: Live | None = None
        self._waiting: Status | None = None
        self._is_mid_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Replace the preview by the whole answer."""
        self._end_waiting()
        if self._live is not None:
            self._live.stop()
            self._console.print(markdown(self.text))
        self._end_line()

    def wait(self, text: str) -> None:
        """What an answer without a new token waits for: in a line that leaves on a terminal, as a note elsewhere."""
        if not self._console.is_terminal:
            show_note(f"({text})")
        elif self._live is not None:
            self._live.update(Group(markdown(self._end_of_text()), Text(text, style="dim")))
        elif not self._is_mid_line:
            self._waiting = self._waiting or self._console.status("")
            self._waiting.update(Text(text, style="dim"))
            self._waiting.start()

    def add_thought(self, text: str) -> None:
        self.thoughts += text
        self._write(text, style="dim")

    def add(self, text: str) -> None:
        self.text += text
        if not self._console.is_terminal or not self._is_shown:
            self._write(text)
            return
        self._end_waiting()
        if self._live is None:
            self._end_line()
            self._live = Live(console=self._console, transient=True, refresh_per_second=8, vertical_overflow="crop")
            self._live.start()
        self._live.update(markdown(self._end_of_text()))

    def _write(self, text: str, style: str = "") -> None:
        if not self._is_shown:
            return
        self._end_waiting()
        if self._console.is_terminal:
            self._console.print(Text(text, style=style), end="", soft_wrap=True)
        else:
            click.echo(text, nl=False)  # rich would expand tabs
        self._is_mid_line = True

    def _end_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None

    def _end_line(self) -> None:
        if self._is_mid_line:
            self._console.print()
            self._is_mid_line = False

    def _end_of_text(self) -> str:
        """The last lines that the terminal has room for, because a live display cannot scroll."""
        width, height = self._console.size
        lines = self.text.splitlines()
        room = height - 2
        start = len(lines)
        while start and (room := room - max(1, -(-len(lines[start - 1]) // width))) >= 0:
            start -= 1
        return "\n".join(lines[min(start, len(lines) - 1) :])
