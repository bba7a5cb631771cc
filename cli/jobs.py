"""omni jobs, omni cancel: list waiting and running jobs, and end them."""

from typing import Any
from urllib.parse import quote

import click

from cli.client import client_of
from cli.terminal import moment, show_table

NAMES = ("id", "state", "tier", "position", "age", "tokens", "scheduled for")


@click.command()
@click.option("--all", "everyone", is_flag=True, help="All keys' jobs that wait or run (needs an admin key).")
@click.pass_context
def jobs(context: click.Context, everyone: bool) -> None:
    """List this key's jobs, with their places in the queue."""
    client = client_of(context)
    if not everyone:
        show_table(NAMES, [cells(job) for job in reversed(client.json("GET", "/v1/jobs?limit=100")["data"])])
        return
    board = next(event for event in client.events("GET", "/admin/board") if isinstance(event, dict))
    show_table((*NAMES, "key"), board_rows(board))


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
    return running + waiting + scheduled


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@click.pass_context
def cancel(context: click.Context, job_ids: tuple[str, ...]) -> None:
    """Cancel jobs: a waiting one at once, a running one within a step."""
    client = client_of(context)
    for job_id in job_ids:
        answer = client.json("DELETE", f"/v1/jobs/{quote(job_id, safe='')}")
        click.echo(f"{job_id} {'cancelled' if answer['deleted'] else 'had ended: ' + answer['state_before']}")
