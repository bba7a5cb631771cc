"""omni chat: talk to the model in the terminal."""

import sys
import time
from typing import Any

import click

from cli.client import Client, client_of
from cli.terminal import AnswerView, console, show_note


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
    """Ask one MESSAGE, or chat until Ctrl-D. Ctrl-C stops an answer."""
    client = client_of(context)
    body = {name: value for name, value in sampling.items() if value is not None}
    body["model"] = model or first_model(client)
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    if message is not None:
        ask(client, body, [*messages, {"role": "user", "content": message}])
        return
    while True:
        try:
            text = console().input("[green]you[/green]> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            if sys.stdin.isatty():
                click.echo()
            return
        if not text.strip():
            continue
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": ask(client, body, messages)})


def first_model(client: Client) -> str:
    """The first that generates."""
    models = client.json("GET", "/v1/models")["data"]
    return str(next((model["id"] for model in models if model.get("task") == "generate"), models[0]["id"]))


def ask(client: Client, body: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """Show the answer while it arrives; returns its text, without the reasoning."""
    began, first, num_tokens = time.monotonic(), 0.0, 0
    with AnswerView() as view:
        try:
            for event in client.chat(body | {"messages": messages}):
                if isinstance(event, str):
                    if event.startswith(("queued", "swapped out", "loading", "waiting")):
                        show_note(f"({event})")
                    continue
                if "error" in event:
                    raise click.ClickException(event["error"]["message"])
                first = first or time.monotonic()
                show(event, view)
                num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
        except KeyboardInterrupt:
            show_note(" (stopped)")
    if num_tokens:
        rate = num_tokens / max(time.monotonic() - first, 1e-6)
        show_note(f"({num_tokens} tokens, {rate:.0f}/s, first after {first - began:.2f} s)")
    return view.text


def show(chunk: dict[str, Any], view: AnswerView) -> None:
    for choice in chunk["choices"]:
        if thought := choice["delta"].get("reasoning_content"):
            view.add_thought(thought)
        if content := choice["delta"].get("content"):
            view.add(content)
