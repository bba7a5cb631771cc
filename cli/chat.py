"""omni chat: talk to the model in the terminal."""

import time
from typing import Any

import click

from cli.client import Client, client_of


@click.command()
@click.argument("message", required=False)
@click.option("--model", help="Served id. Default: the first one.")
@click.option("--system", help="System prompt.")
@click.option("--max-tokens", type=int)
@click.option("--temperature", type=float)
@click.pass_context
def chat(
    context: click.Context, /, message: str | None, model: str | None, system: str | None, **sampling: Any
) -> None:
    """Ask one MESSAGE, or without it talk until Ctrl-D. Ctrl-C stops an answer."""
    client = client_of(context)
    body = {name: value for name, value in sampling.items() if value is not None}
    body["model"] = model or client.json("GET", "/v1/models")["data"][0]["id"]
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    if message is not None:
        ask(client, body, [*messages, {"role": "user", "content": message}])
        return
    while True:
        try:
            text = click.prompt(click.style("you", fg="green"), prompt_suffix="> ")
        except click.Abort:
            click.echo()
            return
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": ask(client, body, messages)})


def ask(client: Client, body: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """Print the answer as it comes; returns what came of it."""
    began, first, num_tokens, text = time.monotonic(), 0.0, 0, ""
    try:
        for event in client.chat(body | {"messages": messages}):
            if isinstance(event, str):
                if event.startswith("queued"):
                    click.secho(f"({event})", dim=True, err=True)
                continue
            if "error" in event:
                raise click.ClickException(event["error"]["message"])
            first = first or time.monotonic()
            text += say(event)
            num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
    except KeyboardInterrupt:
        click.secho(" (stopped)", dim=True, err=True)
    click.echo()
    if num_tokens:
        rate = num_tokens / max(time.monotonic() - first, 1e-6)
        click.secho(f"({num_tokens} tokens, {rate:.0f}/s, first after {first - began:.2f} s)", dim=True, err=True)
    return text


def say(chunk: dict[str, Any]) -> str:
    for choice in chunk["choices"]:
        delta = choice["delta"]
        if thought := delta.get("reasoning_content"):
            click.secho(thought, dim=True, nl=False)
        if content := delta.get("content"):
            click.echo(content, nl=False)
            return str(content)
    return ""
