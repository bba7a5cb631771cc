"""omni webhooks: where events are sent."""

from typing import Any
from urllib.parse import quote

import click

from cli.client import Client, client_of
from cli.terminal import json_option, limit_option, note_more, show_json, show_note, show_table
from common.webhooks.events import ALL_TYPES

PATH = "/v1/webhook_endpoints"


@click.group()
@click.pass_context
def webhooks(context: click.Context) -> None:
    """Add, list, test and remove webhook endpoints."""
    context.obj = client_of(context)


@webhooks.command()
@click.argument("url")
@click.option("--name", default="omni", help="For people.")
@click.option("--event", "events", multiple=True, help="A type of event; may be repeated. Default: all.")
@click.option("--all-keys", is_flag=True, help="The events of all keys (needs an admin key).")
@json_option
@click.pass_obj
def add(client: Client, url: str, name: str, events: tuple[str, ...], all_keys: bool, as_json: bool) -> None:
    """Send events to URL. Prints the endpoint's id and signing secret."""
    scope = "all" if all_keys else "own"
    body = {"url": url, "name": name, "event_types": list(events) or [ALL_TYPES], "scope": scope}
    made = client.json("POST", PATH, body)
    if as_json:
        show_json(made)
    else:
        click.echo(f"{made['id']} {made['signing_secret']}")
    show_note("The secret is shown once.")


@webhooks.command("list")
@limit_option(100)
@json_option
@click.pass_obj
def list_endpoints(client: Client, limit: int, as_json: bool) -> None:
    """List endpoints; with an admin key those of all keys."""
    endpoints, has_more = client.listed(PATH, limit)
    note_more(limit, has_more)
    if as_json:
        show_json(endpoints)
        return
    rows = [
        (found["id"], found["name"], found["url"], " ".join(found["event_types"]), state(found)) for found in endpoints
    ]
    show_table(("id", "name", "url", "events", "state"), rows)


def state(endpoint: dict[str, Any]) -> str:
    if endpoint["disabled"]:
        return f"disabled: {endpoint['disabled_reason']}"
    return "fails" if endpoint["failing_since"] else "ok"


@webhooks.command()
@click.argument("endpoint_id")
@limit_option(100)
@json_option
@click.pass_obj
def deliveries(client: Client, endpoint_id: str, limit: int, as_json: bool) -> None:
    """List the latest deliveries of an endpoint."""
    found, has_more = client.listed(f"{path_of(endpoint_id)}/deliveries", limit)
    note_more(limit, has_more)
    if as_json:
        show_json(found)
        return
    names = ("id", "event_type", "status", "attempts", "error")
    show_table(names, [[delivery[name] for name in names] for delivery in reversed(found)])


@webhooks.command()
@click.argument("endpoint_id")
@click.option("--event", help="The type of the sample.")
@json_option
@click.pass_obj
def test(client: Client, endpoint_id: str, event: str | None, as_json: bool) -> None:
    """Send a sample now and print the receiver's status."""
    answer = client.json("POST", f"{path_of(endpoint_id)}/test", {"event_type": event} if event else {})
    show_json(answer) if as_json else click.echo(answer["status_code"])


@webhooks.command()
@click.argument("endpoint_id")
@click.option("--at-once", is_flag=True, help="Invalidate the old secret now, not in 24 hours.")
@json_option
@click.pass_obj
def rotate(client: Client, endpoint_id: str, at_once: bool, as_json: bool) -> None:
    """Print a new signing secret. The old one stays valid for 24 hours."""
    body = {"keep_old_secret_active_for_24_hours": not at_once}
    answer = client.json("POST", f"{path_of(endpoint_id)}/rotate_secret", body)
    show_json(answer) if as_json else click.echo(answer["signing_secret"])


@webhooks.command()
@click.argument("endpoint_id")
@json_option
@click.pass_obj
def enable(client: Client, endpoint_id: str, as_json: bool) -> None:
    """Send events to an endpoint again that was disabled."""
    answer = client.json("POST", path_of(endpoint_id), {"disabled": False})
    show_json(answer) if as_json else show_note(f"{endpoint_id} gets events again.")


@webhooks.command()
@click.argument("endpoint_id")
@json_option
@click.pass_obj
def remove(client: Client, endpoint_id: str, as_json: bool) -> None:
    """Remove an endpoint and its deliveries."""
    answer = client.json("DELETE", path_of(endpoint_id))
    show_json(answer) if as_json else show_note(f"{endpoint_id} is removed.")


def path_of(endpoint_id: str) -> str:
    return f"{PATH}/{quote(endpoint_id, safe='')}"
