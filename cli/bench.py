"""omni bench: the load generator of bench/load.py against the running service, with its progress."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.load import Level, Plan, Shot, Target, num_requests, run_level
from cli.client import client_of
from cli.conversation import models_that_generate
from cli.terminal import STOPPED, console, json_option, show_json, show_note, show_table
from common.shelf.table import no_such_model

NAMES = (
    "load", "requests", "errors", "tokens/s", "requests/s", "first token p50 ms", "p99", "next token p50 ms", "p99",
)  # fmt: skip
FIELDS = (
    "requests", "errors", "tokens_s", "requests_s", "ttft_p50_ms", "ttft_p99_ms", "gap_p50_ms", "gap_p99_ms",
)  # fmt: skip


class Numbers(click.ParamType[list[float]]):
    """Comma separated, each above 0."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        try:
            found = [float(part) for part in str(value).split(",")]
        except ValueError:
            found = []
        if not found or min(found) <= 0:
            self.fail(f"{value!r} is not a list of numbers above 0, such as 1,4,16.", param, ctx)
        return found


@click.command()
@click.option("--concurrency", "-c", type=Numbers(), default="1,4,16", show_default=True, help="Callers at once.")
@click.option("--rate", type=Numbers(), help="Arrivals a second, such as 2,4,8, whatever is answered by then.")
@click.option("--requests", type=click.IntRange(1), help="For each of these. Default: 2 for each caller, 4 at least.")
@click.option("--words", type=click.IntRange(1), default=95, show_default=True, help="Of each prompt.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Of each answer.")
@click.option("--model", help="Served id. Default: the first one.")
@json_option
@click.pass_context
def bench(
    context: click.Context,
    concurrency: list[float],
    rate: list[float] | None,
    requests: int | None,
    words: int,
    tokens: int,
    model: str | None,
    as_json: bool,
) -> None:
    """Load the service, and show rates and latencies. Its other users wait longer meanwhile.

    \b
    omni bench -c 1,8,32 --tokens 128
    omni bench --rate 0.5,1,2 --requests 50 --json
    """
    client = client_of(context)
    known = models_that_generate(client)
    model = model or known[0]
    if model not in known:
        raise click.ClickException(no_such_model(model, known))
    target = Target("here", f"{client.url}/v1", model, client.key)
    plan = Plan(words, tokens, requests=requests or 0)
    levels = [(0, one) for one in rate] if rate else [(int(one), 0.0) for one in concurrency]
    rows: dict[str, Level] = {}
    try:
        measure(target, plan, levels, rows)
    except KeyboardInterrupt:
        show_note("stopped")
        context.exit(STOPPED)
    finally:
        report(model, rows, as_json)
    context.exit(int(all(row.errors == row.requests for row in rows.values())))


def measure(target: Target, plan: Plan, levels: Sequence[tuple[int, float]], rows: dict[str, Level]) -> None:
    """Add a row for each level that is done."""
    for number, (concurrency, rate) in enumerate(levels):
        load = f"{rate:g} a second" if rate else f"{concurrency} at once"
        with progress_of(load, num_requests(plan, concurrency)) as on_shot:
            rows[load] = asyncio.run(run_level(target, plan, concurrency, rate, 1000 * number, on_shot))


@contextmanager
def progress_of(load: str, total: int) -> Iterator[Callable[[Shot], None]]:
    """A bar on a terminal; nothing elsewhere."""
    out = console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=out, disable=not out.is_terminal, transient=True) as progress:
        bar = progress.add_task(load, total=total, told="")
        counts = {"tokens": 0, "errors": 0}

        def on_shot(shot: Shot) -> None:
            counts["tokens"] += shot.num_tokens
            counts["errors"] += bool(shot.error)
            failed = f", {counts['errors']} failed" if counts["errors"] else ""
            progress.update(bar, advance=1, told=f"{counts['tokens']:,} tokens{failed}")

        yield on_shot


def report(model: str, rows: Mapping[str, Level], as_json: bool) -> None:
    items = {load: asdict(row) for load, row in rows.items()}
    if as_json:
        fields = (*FIELDS, "first_error")
        show_json(
            [{"model": model, "load": load} | {name: item[name] for name in fields} for load, item in items.items()]
        )
        return
    if rows:
        show_table(NAMES, [[load, *(item[name] for name in FIELDS)] for load, item in items.items()])
    for load, item in items.items():
        if item["first_error"]:
            show_note(f"{load}: first error: {item['first_error']}")
