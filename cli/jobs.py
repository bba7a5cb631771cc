"""omni jobs, omni cancel: list or watch waiting and running jobs, and end them."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click
from click.core import ParameterSource
from rich.live import Live

from cli.client import Client, asked_again, client_of
from cli.terminal import (
    console,
    json_option,
    limit_option,
    moment,
    note_more,
    show_json,
    show_note,
    show_table,
    stoppable,
    table_of,
)  # fmt: skip

NAMES = ("id", "state", "tier", "position", "age", "tokens", "scheduled for")
OPEN = ("running", "queued", "scheduled", "paused")
POLL_S = 1.0
HEADING_LINES = 2  # of a table on a terminal, and the cursor's


@click.command()
@click.option("--all", "everyone", is_flag=True, help="All keys' jobs that wait or run, and the last that failed.")
@click.option("--watch", is_flag=True, help="Show every change until Ctrl-C; with --json a line for each.")
@limit_option(100)
@json_option
@click.pass_context
def jobs(context: click.Context, everyone: bool, watch: bool, limit: int, as_json: bool) -> None:
    """List this key's jobs, with their places in the queue."""
    if everyone and context.get_parameter_source("limit") is not ParameterSource.DEFAULT:
        raise click.UsageError("--limit is for the list of one key; --all shows what the board does.")
    client = client_of(context)
    if watch:
        with stoppable(context):
            watch_jobs(changes(client, everyone, limit), everyone, as_json)
        return
    found, has_more = listed(client, everyone, limit)
    if as_json:
        show_json(found)
    else:
        show_table(names_of(everyone), rows_of(found, everyone))
    if not everyone:
        note_more(limit, has_more)
        return
    if has_more:
        show_note("More jobs wait than these, which are the first in turn: omni status counts them.")
    if not as_json:
        show_note("What ended well is in each key's own list: omni --key KEY jobs")


def listed(client: Client, everyone: bool, limit: int) -> tuple[Any, bool]:
    """The items of GET /v1/jobs, or for everyone's the board's lists; and whether that is not all that wait."""
    if not everyone:
        return client.listed("/v1/jobs", limit)
    board = next(event for event in client.events("GET", "/admin/board") if isinstance(event, dict))
    has_more = any(board[f"num_{name}"] > len(board[name]) for name in ("waiting", "scheduled"))
    return {name: board[name] for name in ("running", "waiting", "scheduled", "failed")}, has_more


def names_of(everyone: bool) -> tuple[str, ...]:
    return (*NAMES, "key") if everyone else NAMES


def rows_of(found: Any, everyone: bool) -> list[tuple[Any, ...]]:
    return board_rows(found) if everyone else [cells(job) for job in reversed(found)]


def changes(client: Client, everyone: bool, limit: int) -> Iterator[Any]:
    """The jobs, once a second for as long as they are asked for."""
    return asked_again(lambda: listed(client, everyone, limit)[0], POLL_S)


def watch_jobs(found: Iterator[Any], everyone: bool, as_json: bool) -> None:
    out, last = console(), None
    with Live(console=out, auto_refresh=False, transient=True) as live:
        for now in found:
            rows = rows_of(now, everyone)
            if out.is_terminal and not as_json:
                shown = open_first(rows)[: out.height - HEADING_LINES]
                live.update(table_of(names_of(everyone), shown, out, overflow="ellipsis"), refresh=True)
            elif rows != last and as_json:
                click.echo(json.dumps(now))
            elif rows != last:
                show_table(names_of(everyone), rows)
            last = rows


def open_first(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Jobs that wait or run in their order, then those that have ended, the latest first."""
    is_open = [row[NAMES.index("state")].partition(" ")[0] in OPEN for row in rows]
    ended = [row for row, is_it in zip(rows, is_open, strict=True) if not is_it]
    return [row for row, is_it in zip(rows, is_open, strict=True) if is_it] + ended[::-1]


def cells(job: dict[str, Any]) -> tuple[Any, ...]:
    """A job of /v1/jobs."""
    begins = job["scheduled_for"]
    return (
        job["id"],
        state_of(job),
        job["service_tier"],
        job["position"],
        f"{job['age_s']:.0f} s",
        f"{job['tokens']}/{job['max_tokens']}",
        moment(begins) if begins else None,
    )


def state_of(job: dict[str, Any]) -> str:
    """With what it waits for."""
    if job["scheduled_for"]:
        return "scheduled"
    state = "paused" if job.get("paused") else str(job["state"])
    place = job.get("model_status")
    return state if place in (None, "loaded") else f"{state} (model {place})"


def board_rows(board: dict[str, Any]) -> list[tuple[Any, ...]]:
    running = [
        (job["id"], "running", job["tier"], None, f"{job['age_s']:.0f} s", f"{job['tokens']}/{job['max_tokens']}", None,
         job["owner"])
        for job in board["running"]
    ]  # fmt: skip
    waiting = [
        (job["id"], "queued", job["tier"], job["position"], f"{job['age_s']:.0f} s", f"{job['prompt_tokens']} to read",
         None, job["owner"])
        for job in board["waiting"]
    ]  # fmt: skip
    scheduled = [
        (job["id"], "scheduled", job["tier"], None, None, None, moment(job["not_before"]), job["owner"])
        for job in board["scheduled"]
    ]
    failed = [
        (job["id"], f"failed: {job['code']}", job["tier"], None, f"until {moment(job['ended'])}",
         f"{job['tokens']}/{job['max_tokens']}", None, job["owner"])
        for job in reversed(board["failed"])
    ]  # fmt: skip
    return running + waiting + scheduled + failed


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@json_option
@click.pass_context
def cancel(context: click.Context, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs: a waiting one at once, a running one within a step."""
    client = client_of(context)
    for job_id in job_ids:
        answer = client.json("DELETE", f"/v1/jobs/{quote(job_id, safe='')}")
        if as_json:
            click.echo(json.dumps(answer))
        else:
            click.echo(f"{job_id} {'cancelled' if answer['deleted'] else 'had ended: ' + answer['state_before']}")
