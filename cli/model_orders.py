"""omni models load, unload, pin and unpin: orders to the running service."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from cli.client import Client, client_of, is_ours
from cli.model_rows import status_text
from cli.model_table import audited_table, table_path
from cli.terminal import console, json_option, show_json
from common.shelf.edit import set_key
from common.shelf.keep_alive import parse_keep_alive

PATH = "/v1/models"
POLL_S = 0.3
OLD_WHY_S = 1.5  # so long what held its place before may still be told
START_S = 15.0
UNAVAILABLE = "503"
OLD_FAULT_S = 3.0  # so long the fault of an earlier loading may still be told


def order(
    client: Client, name: str, action: str, is_done: Callable[[dict[str, Any]], bool], **body: Any
) -> dict[str, Any]:
    """Ask for it, and show how far it is until it is done; then the model's item. Raises ClickException with the fault
    of a loading."""
    path, begin, is_new = f"{PATH}/{quote(name, safe='')}", time.monotonic(), False
    item = ordered(client, f"{path}/{action}", body)
    with console(stderr=True).status("") as line:
        while not is_done(item):
            status = item.get("status") or {}
            is_new = is_new or not status.get("failed") or time.monotonic() - begin > OLD_FAULT_S
            if status.get("failed") and is_new:
                raise click.ClickException(f"{name}: {status.get('reason')}")
            if action in ("load", "pin") and status.get("why") and time.monotonic() - begin > OLD_WHY_S:
                raise click.ClickException(f"{name} cannot be loaded: {status['why']}")
            line.update(f"{name}: {status_text(item)}")
            time.sleep(POLL_S)
            item = client.json("GET", path)
    return item


def told(item: dict[str, Any], sentence: str, as_json: bool) -> None:
    show_json(item) if as_json else click.echo(sentence)


def ordered(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Asks again for a while where the service says that no worker is there yet, as after its start."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return client.json("POST", path, body)
        except click.ClickException as error:
            if not error.message.startswith(UNAVAILABLE) or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def state_of(item: dict[str, Any]) -> str:
    return str((item.get("status") or {}).get("state", ""))


@click.command()
@click.argument("name", metavar="ID")
@click.option("--keep-alive", help='How long it stays without work, such as "10m"; 0: not at all, -1: for ever.')
@json_option
@click.pass_context
def load(context: click.Context, name: str, keep_alive: str | None, as_json: bool) -> None:
    """Load the model with ID, and wait for it. Others give way first."""
    try:
        body = {} if keep_alive is None else {"keep_alive": parse_keep_alive(keep_alive)}
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--keep-alive") from None
    item = order(client_of(context), name, "load", lambda item: state_of(item) == "loaded", **body)
    told(item, f"{name} is loaded", as_json)


@click.command()
@click.argument("name", metavar="ID")
@json_option
@click.pass_context
def unload(context: click.Context, name: str, as_json: bool) -> None:
    """Unload the model with ID. Its answers are paused, and go on when it is loaded again."""
    item = order(client_of(context), name, "unload", lambda item: state_of(item) not in ("loaded", "loading"))
    told(item, f"{name} is unloaded", as_json)


@click.command()
@click.argument("name", metavar="ID")
@json_option
@click.pass_context
def pin(context: click.Context, name: str, as_json: bool) -> None:
    """Never unload the model with ID, from now on. Also written into the table."""
    set_pin(context, name, True, as_json)


@click.command()
@click.argument("name", metavar="ID")
@json_option
@click.pass_context
def unpin(context: click.Context, name: str, as_json: bool) -> None:
    """Let the model with ID leave when another needs its place. Also written into the table."""
    set_pin(context, name, False, as_json)


def set_pin(context: click.Context, name: str, wanted: bool, as_json: bool) -> None:
    is_own_table = is_ours(context)
    client, word = client_of(context), "pinned" if wanted else "not pinned"
    action, in_table = "pin" if wanted else "unpin", True if wanted else None
    item: dict[str, Any] = {"id": name, "pinned": wanted}
    try:
        client.text("GET", "/livez")
    except click.ClickException:
        if not is_own_table:
            raise
        word += " when the service starts"
        with audited_table(f"model.{action}", name):
            set_key(table_path(), name, "pin", in_table)
    else:
        item = order(client, name, action, lambda item: bool(item.get("pinned")) == wanted)
        if is_own_table:
            set_key(table_path(), name, "pin", in_table)
    told(item, f"{name} is {word}", as_json)
