"""omni usage: what keys used, by day."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import click

from cli.client import client_of
from cli.terminal import json_option, show_json, show_note, show_table

NAMES = ("day", "key", "model", "tier", "requests", "failed", "cancelled", "prompt", "cached", "answer", "GPU s")
GROUPS = ("key", "model", "tier")


@click.command()
@click.option("--since", metavar="DAY", help="The first day (UTC), as 2026-11-27. Default: 30 days ago.")
@click.option("--until", metavar="DAY", help="The last day. Default: today.")
@click.option("--of", "keys", multiple=True, metavar="NAME", help="Only this key, for admins; may be repeated.")
@click.option("--model", "models", multiple=True, help="Only this model; may be repeated.")
@click.option("--by", "groups", multiple=True, type=click.Choice(GROUPS), help="Rows apart by this; default all.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="CSV.")
@click.pass_context
def usage(
    context: click.Context,
    since: str | None,
    until: str | None,
    keys: tuple[str, ...],
    models: tuple[str, ...],
    groups: tuple[str, ...],
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show requests, tokens and GPU seconds by day.

    With an admin key those of all keys.
    """
    groups = groups or GROUPS
    query = [("start_date", since), ("end_date", until), *(("key", key) for key in keys)]
    query += [*(("model", model) for model in models), *(("group_by", group) for group in groups)]
    path = f"/v1/usage?{urlencode([(name, value) for name, value in query if value])}"
    client = client_of(context)
    if as_csv:
        click.echo(client.text("GET", f"{path}&format=csv"), nl=False)
        return
    answer = client.json("GET", path)
    if as_json:
        show_json(answer)
        return
    rows = rows_of(answer)
    hidden = {NAMES.index(group) for group in GROUPS if group not in groups}
    shown = [number for number in range(len(NAMES)) if number not in hidden]
    show_table([NAMES[at] for at in shown], [[in_table(row[at]) for at in shown] for row in [*rows, total(rows)]])
    if not rows:
        show_note("Nothing was used in these days.")


def rows_of(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (
            day_of(bucket["start_time"]), result["key"], result["model"], result["service_tier"],
            result["num_model_requests"], result["num_failed"], result["num_cancelled"], result["input_tokens"],
            result["input_cached_tokens"], result["output_tokens"], result["gpu_seconds"],
        )
        for bucket in answer["data"]
        for result in bucket["results"]
    ]  # fmt: skip


def total(rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    return "total", "", "", "", *(sum(row[at] for row in rows) for at in range(4, len(NAMES)))


def in_table(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


def day_of(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
