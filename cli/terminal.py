"""Output by rich: tables, markdown and colours on a terminal, plain text into files and pipes."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.environment import callers_folder

PIPE_WIDTH = 1000  # lines for a file or a pipe are not wrapped


def console(*, stderr: bool = False) -> Console:
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if is_terminal else PIPE_WIDTH)


def show_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    out = console()
    out.print(table_of(names, rows, out))


def table_of(names: Sequence[str], rows: Sequence[Sequence[Any]], out: Console) -> Table:
    """Aligned columns; None is an empty cell."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=not out.is_terminal, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return table


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="As JSON.")(function)


def show_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def moment(seconds: float) -> str:
    """Unix seconds as a local time."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def show_note(text: str) -> None:
    """A dim line on stderr, apart from the output."""
    console(stderr=True).print(Text(text, style="dim"))


class CallersPath(click.Path):
    """A path as the caller's shell means it: ./omni runs in the checkout."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(callers_folder() / value, param, ctx)


def markdown(text: str) -> RenderableType:
    from rich.markdown import Markdown  # 0.1 s that other commands need not wait

    return Markdown(text)


class AnswerView:
    """Shows an answer while it grows: as markdown on a terminal, as the bare text elsewhere."""

    def __init__(self) -> None:
        self.text = ""
        self._console = console()
        self._live: Live | None = None
        self._is_mid_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Replace the preview by the whole answer."""
        if self._live is not None:
            self._live.stop()
            self._console.print(markdown(self.text))
        self._end_line()

    def add_thought(self, text: str) -> None:
        self._write(text, style="dim")

    def add(self, text: str) -> None:
        self.text += text
        if not self._console.is_terminal:
            self._write(text)
            return
        if self._live is None:
            self._end_line()
            self._live = Live(console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        self._live.update(markdown(self._end_of_text()))

    def _write(self, text: str, style: str = "") -> None:
        if self._console.is_terminal:
            self._console.print(Text(text, style=style), end="")
        else:
            click.echo(text, nl=False)  # rich would expand tabs
        self._is_mid_line = True

    def _end_line(self) -> None:
        if self._is_mid_line:
            self._console.print()
            self._is_mid_line = False

    def _end_of_text(self) -> str:
        """The last lines that the terminal has room for, because a live display cannot scroll."""
        return "\n".join(self.text.splitlines()[-(self._console.height - 2) :])
