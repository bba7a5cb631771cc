"""omni batch: run a file of requests as a batch, with a progress bar; list, show, cancel and delete batches."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from cli.client import Client, Refused, asked_again, client_of
from cli.terminal import (
    STOPPED,
    CallersPath,
    console,
    json_option,
    limit_option,
    moment,
    note_more,
    show_json,
    show_note,
    show_table,
)  # fmt: skip

POLL_S = 0.5
ENDED = ("completed", "failed", "expired", "cancelled")
WORTHLESS = ("failed", "cancelled", "expired")  # a batch of this kind is not taken up again
CONTENT = "omni_content"  # the metadata by which a batch is found again: SHA-256 of its file, endpoint and window


@click.group()
def batch() -> None:
    """Run a file of requests; list, show, cancel and delete batches.

    A line is a request in JSON, as OpenAI's Batch API has it.
    """


@batch.command()
@click.argument("file", type=CallersPath(exists=True, dir_okay=False))
@click.option("--out", required=True, type=CallersPath(dir_okay=False), help="Where the results go.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option("--window", default="24h", show_default=True, help="By when it has to end.")
@json_option
@click.pass_context
def run(context: click.Context, file: Path, out: Path, force: bool, window: str, as_json: bool) -> None:
    """Upload FILE, run it, and write the results to --out.

    Failed lines stand beside it, in OUT.errors. The batch goes on when this command is stopped; the same command takes
    it up again.
    """
    errors = out.with_name(f"{out.name}.errors")
    check_places(file, (out, errors), force)
    client = client_of(context)
    endpoint = endpoint_of(file)
    content = content_of(file, endpoint, window)
    found = earlier(client, content)
    if found is None:
        uploaded = client.upload(file, "batch")
        body = {"input_file_id": uploaded["id"], "endpoint": endpoint, "completion_window": window}
        found = client.json("POST", "/v1/batches", body | {"metadata": {CONTENT: content}})
    try:
        ended = waited_for(client, found)
    except KeyboardInterrupt:
        show_note(
            f"{found['id']} goes on. The same command takes it up again; 'omni batch cancel {found['id']}' ends it."
        )
        context.exit(STOPPED)
    for name, to in (("output_file_id", out), ("error_file_id", errors)):
        if ended[name]:
            download(client, ended[name], to)
        elif force:
            to.unlink(missing_ok=True)
    show(ended, as_json)
    if ended["status"] != "completed" or ended["request_counts"]["failed"]:
        context.exit(1)


@batch.command("list")
@limit_option(100)
@json_option
@click.pass_context
def list_batches(context: click.Context, limit: int, as_json: bool) -> None:
    """List this key's batches, the newest first."""
    found, has_more = client_of(context).listed("/v1/batches", limit)
    note_more(limit, has_more)
    if as_json:
        show_json(found)
        return
    show_table(("id", "status", "lines", "failed", "endpoint", "created", "ends"), [cells(one) for one in found])
    for one in found:
        if one.get("waiting_for"):
            show_note(f"{one['id']} waits: {one['waiting_for']}")


@batch.command("show")
@click.argument("batch_id")
@json_option
@click.pass_context
def show_batch(context: click.Context, batch_id: str, as_json: bool) -> None:
    """Show one batch."""
    found = client_of(context).json("GET", path_of(batch_id))
    show(found, as_json)


@batch.command()
@click.argument("batch_id")
@json_option
@click.pass_context
def cancel(context: click.Context, batch_id: str, as_json: bool) -> None:
    """Cancel a batch; what was answered is kept."""
    found = client_of(context).json("POST", f"{path_of(batch_id)}/cancel", {})
    show(found, as_json)


@batch.command()
@click.argument("batch_ids", nargs=-1, required=True)
@json_option
@click.pass_context
def delete(context: click.Context, batch_ids: tuple[str, ...], as_json: bool) -> None:
    """Delete ended batches with their results; their input files stay."""
    client = client_of(context)
    for batch_id in batch_ids:
        answer = client.json("DELETE", path_of(batch_id))
        click.echo(json.dumps(answer)) if as_json else show_note(f"{batch_id} is deleted.")


def check_places(file: Path, places: Sequence[Path], force: bool) -> None:
    """Raises UsageError, before anything runs, where the results could not be written or would destroy a file."""
    for place in places:
        if place.name == "-" or (place.exists() and not place.is_file()):
            raise click.UsageError(f"{place} is no regular file; give --out a file's name.")
        if place.exists() and place.samefile(file):
            raise click.UsageError(f"{place} is the file of the requests; give --out another name.")
        if place.exists() and not force:
            raise click.UsageError(f"{place} exists already; --force replaces it.")
        if not (place.parent.is_dir() and os.access(place.parent, os.W_OK)):
            raise click.UsageError(f"{place.parent} is no folder that can be written to.")


def download(client: Client, file_id: str, to: Path) -> None:
    try:
        client.download(f"/v1/files/{file_id}/content", to)
    except OSError as error:
        raise click.ClickException(f"{to}: {error.strerror}. The same command fetches the results again.") from None
    show_note(f"{file_id} -> {to}")


def path_of(batch_id: str) -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}"


def endpoint_of(file: Path) -> str:
    """The url of the first line, which all lines must have."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        return str(json.loads(first)["url"])
    except (ValueError, KeyError, TypeError):
        raise click.ClickException(f"{file}: the first line is no request with a 'url'.") from None


def content_of(file: Path, endpoint: str, window: str) -> str:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256")
    digest.update(f"\0{endpoint}\0{window}".encode())
    return digest.hexdigest()


def earlier(client: Client, content: str) -> dict[str, Any] | None:
    """This key's batch of the same content, if it has not come to nothing and its results are still there."""
    after = ""
    while True:
        page = client.json("GET", f"/v1/batches?limit=100{after}")
        for one in page["data"]:
            is_same = (one.get("metadata") or {}).get(CONTENT) == content
            if is_same and one["status"] not in WORTHLESS and has_results(client, one):
                show_note(f"{one['id']} is the batch of this file.")
                found: dict[str, Any] = one
                return found
        if not page["has_more"]:
            return None
        after = f"&after={page['last_id']}"


def has_results(client: Client, one: dict[str, Any]) -> bool:
    try:
        for name in ("output_file_id", "error_file_id"):
            if one[name]:
                client.json("GET", f"/v1/files/{one[name]}")
    except Refused:
        return False
    return True


def waited_for(client: Client, found: dict[str, Any]) -> dict[str, Any]:
    """The batch once it has ended. A service that is away for a while is waited for."""
    path = path_of(found["id"])
    with progress_of(found["id"]) as shown:
        for now in asked_again(lambda: client.json("GET", path), POLL_S):
            shown(found := now)
            if found["status"] in ENDED:
                break
    return found


@contextmanager
def progress_of(batch_id: str) -> Iterator[Any]:
    """A function that shows a batch: as a bar on a terminal, and everywhere as a line for each reason why it waits."""
    out = console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        bar, told_of = progress.add_task(batch_id, total=None, failed=""), ""

        def show_batch(found: dict[str, Any]) -> None:
            nonlocal told_of
            counts = found["request_counts"]
            failed = f"{counts['failed']} failed" if counts["failed"] else ""
            num_done = counts["completed"] + counts["failed"]
            total = counts["total"] or None
            why = found.get("waiting_for", "")
            progress.update(bar, description=found["status"], total=total, completed=num_done, failed=failed)
            if why and why != told_of:  # printed above the bar
                out.print(Text(f"{batch_id} waits: {why}", style="dim"))
                told_of = why

        yield show_batch


def show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(found)
    else:
        click.echo(told(found))


def told(found: dict[str, Any]) -> str:
    """One batch in a line, and its faults."""
    counts = found["request_counts"]
    line = (
        f"{found['id']} {found['status']}: {counts['completed']} of {counts['total']} lines, {counts['failed']} failed"
    )
    if found.get("usage"):
        line += f", {found['usage']['total_tokens']} tokens"
    if found.get("eta"):
        line += f", ends about {moment(found['eta'])}"
    if found.get("waiting_for"):
        line += f"\nwaits: {found['waiting_for']}"
    faults = (found.get("errors") or {}).get("data") or []
    return "\n".join([line, *(f"line {fault['line']}: {fault['code']}: {fault['message']}" for fault in faults)])


def cells(found: dict[str, Any]) -> tuple[Any, ...]:
    counts = found["request_counts"]
    ends = moment(found["eta"]) if found.get("eta") else ""
    lines = f"{counts['completed'] + counts['failed']}/{counts['total']}"
    return (found["id"], found["status"], lines, counts["failed"], found["endpoint"], moment(found["created_at"]), ends)
