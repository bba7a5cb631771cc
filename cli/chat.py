"""omni chat: talk to the model in the terminal."""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import click

from cli.client import client_of
from cli.conversation import COMMANDS, Conversation
from cli.terminal import STOPPED, json_option, show_note
from common.shelf.table import no_such_model


@click.command()
@click.argument("message", required=False)
@click.option("--model", help="Served id. Default: the first one.")
@click.option("--system", help="System prompt.")
@click.option("--max-tokens", type=int)
@click.option("--temperature", type=float)
@json_option
@click.pass_context
def chat(
    context: click.Context,
    /,
    message: str | None,
    model: str | None,
    system: str | None,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Ask one MESSAGE, or have a conversation.

    What is piped in stands behind the MESSAGE. @PATH in a message sends a file. Ctrl-D ends a conversation.

    \b
    git diff | omni chat "Write a commit message."
    omni chat "What does this do? @Makefile" < /dev/null
    """
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if as_json and message is None and is_terminal:
        raise click.UsageError('--json needs a message: omni chat --json "Hello", or lines that are piped in.')
    body = {name: value for name, value in sampling.items() if value is not None}
    talk = Conversation(client_of(context), body, system, as_json=as_json)
    body["model"] = named(model, talk.models())
    if message is not None:
        piped = "" if sys.stdin.isatty() else read_piped()
        if not (whole := "\n\n".join(part for part in (message, piped) if part.strip())):
            raise click.UsageError("the message is empty.")
        talk.say(whole)
        context.exit(STOPPED if talk.is_stopped else 0)
    read: Callable[[], str] = editor_of(talk) if is_terminal else input
    converse(talk, read, is_terminal)


def read_piped() -> str:
    text = sys.stdin.read().strip("\n")
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps bytes that are no text as surrogates
        raise click.ClickException("What is piped in is not UTF-8 text; convert it first, as with iconv.") from None
    return text


def named(model: str | None, known: list[str]) -> str:
    """The model, or the first one. A name that is none is refused here if it is nearly one, else by the service."""
    if model is None or model in known:
        return model or known[0]
    if get_close_matches(model, known, 1):
        raise click.ClickException(no_such_model(model, known))
    return model


def editor_of(talk: Conversation) -> Callable[[], str]:
    from cli.line_editor import line_editor  # 0.1 s that other commands need not wait

    show_note(f"{talk.body['model']} at {talk.client.url}; /help lists the commands, Ctrl-D leaves")
    return line_editor(COMMANDS, talk.models)


def converse(talk: Conversation, read: Callable[[], str], is_terminal: bool) -> None:
    """Answer line after line. A refusal ends the input only where there is no terminal."""
    while True:
        try:
            text = read()
        except EOFError:
            return
        except KeyboardInterrupt:
            if is_terminal:
                continue  # as a shell: the line is dropped
            return
        try:
            if text.startswith("/") and is_terminal:
                if not talk.command(text):
                    return
            elif text.strip():
                talk.say(text)
        except click.ClickException as error:
            if not is_terminal:
                raise
            show_note(f"Error: {error.message}")
