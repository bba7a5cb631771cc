"""omni jobs, omni cancel: list waiting and running jobs, and end them."""

from typing import Any
from urllib.parse import quote

import click

from cli.client import client_of
from cli.terminal import show_table


@click.command()
@click.option("--all", "everyone", is_flag=True, help="All keys' jobs that wait or run (needs an admin key).")
@click.pass_context
def jobs(context: click.Context, everyone: bool) -> None:
    """List this key's jobs, with their places in the queue."""
    client = client_of(context)
    if not everyone:
        rows = [
            (job["id"], job["state"], job["position"], f"{job['age_s']:.0f} s", f"{job['tokens']}/{job['max_tokens']}")
            for job in reversed(client.json("GET", "/v1/jobs?limit=100")["data"])
        ]
        show_table(("id", "state", "position", "age", "tokens"), rows)
        return
    board = next(event for event in client.events("GET", "/admin/board") if isinstance(event, dict))
    show_table(("id", "state", "position", "age", "tokens", "key"), board_rows(board))


def board_rows(board: dict[str, Any]) -> list[tuple[Any, ...]]:
    running = [
        (job["id"], "running", "", f"{job['age_s']:.0f} s", f"{job['tokens']}/{job['max_tokens']}", job["owner"])
        for job in board["running"]
    ]
    waiting = [
        (job["id"], "queued", job["position"], f"{job['age_s']:.0f} s", f"{job['prompt_tokens']} to read", job["owner"])
        for job in board["waiting"]
    ]
    return running + waiting


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@click.pass_context
def cancel(context: click.Context, job_ids: tuple[str, ...]) -> None:
    """Cancel jobs: a waiting one at once, a running one within a step."""
    client = client_of(context)
    for job_id in job_ids:
        answer = client.json("DELETE", f"/v1/jobs/{quote(job_id, safe='')}")
        if answer["state_before"] is None:
            raise click.ClickException(f"There is no job {job_id!r}; `omni jobs` lists them.")
        click.echo(f"{job_id} {'cancelled' if answer['deleted'] else 'had ended: ' + answer['state_before']}")
