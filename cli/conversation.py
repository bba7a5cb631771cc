"""A conversation of `omni chat`: its messages, and the /commands that change it."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import click

from cli.attachments import content_of
from cli.client import Client, StoppedWhileAway
from cli.terminal import AnswerView, callers_path, show_note, without_echo
from common.shelf.table import no_such_model

COMMANDS = MappingProxyType(
    {
        "/help": "these commands and the keys",
        "/system": "[TEXT] show or set the system prompt",
        "/model": "[ID] show the models or change to one",
        "/retry": "answer the last message again",
        "/save": "FILE write the conversation, as Markdown or (.json) as messages",
        "/clear": "begin again; system prompt and model stay",
        "/exit": "leave, as Ctrl-D does",
    }
)
WAITS = ("queued", "swapped out", "loading", "waiting")  # first words of a stream's comments that people want to see
AWAY = "the service is away, and ends the job within 30 s of its return, since nobody reads it. To end it at once then:"
KEYS = "Enter sends, Alt-Enter begins a line, Up recalls, Tab completes, Ctrl-C stops an answer. @PATH sends a file."


class Conversation:
    """Raises ClickException for what is refused; the messages are then as before."""

    def __init__(
        self, client: Client, body: dict[str, Any], system: str | None = None, *, as_json: bool = False
    ) -> None:
        self.client = client
        self.body = body
        self.system = system or ""
        self.messages: list[dict[str, Any]] = []  # without the system prompt
        self._as_json = as_json  # an object for each answer, in the place of its text
        self.is_stopped = False  # the last answer, by Ctrl-C

    def say(self, text: str) -> None:
        self._answer([*self.messages, {"role": "user", "content": content_of(text)}])

    def retry(self) -> None:
        last = max((at for at, one in enumerate(self.messages) if one["role"] == "user"), default=None)
        if last is None:
            raise click.ClickException("There is no message to answer again.")
        self._answer(self.messages[: last + 1])

    def models(self) -> list[str]:
        return models_that_generate(self.client)

    def command(self, line: str) -> bool:
        """Do what a line with a / in front says. False to leave."""
        name, _, rest = line.strip().partition(" ")
        if name == "/exit":
            return False
        if name not in COMMANDS:
            near = get_close_matches(name, COMMANDS, 1)
            raise click.ClickException(
                f"{name} is no command; {f'did you mean {near[0]}?' if near else '/help lists them all.'}"
            )
        doing: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/system": self._set_system,
            "/model": self._set_model,
            "/retry": lambda _: self.retry(),
            "/save": self._save,
            "/clear": self._clear,
        }
        doing[name](rest.strip())
        return True

    def _answer(self, messages: list[dict[str, Any]]) -> None:
        first = [{"role": "system", "content": self.system}] if self.system else []
        answer = ask(self.client, self.body, [*first, *messages], is_shown=not self._as_json)
        self.is_stopped = answer.finish_reason is None
        if self._as_json:
            click.echo(json.dumps(asdict(answer), ensure_ascii=False))
        if answer.content or answer.finish_reason:  # else it was stopped before it began
            self.messages = [*messages, {"role": "assistant", "content": answer.content}]

    def _help(self, _: str) -> None:
        for name, text in COMMANDS.items():
            click.echo(f"{name:8} {text}")
        show_note(KEYS)

    def _set_system(self, text: str) -> None:
        if text:
            self.system = text
        show_note(f"system prompt: {self.system or 'none'}")

    def _set_model(self, name: str) -> None:
        known = self.models()
        if name and name not in known:
            raise click.ClickException(no_such_model(name, known))
        self.body["model"] = name or self.body["model"]
        for one in known if not name else [name]:
            show_note(f"{'*' if one == self.body['model'] else ' '} {one}")

    def _save(self, name: str) -> None:
        if not name:
            raise click.ClickException("Name the file: /save FILE")
        path = callers_path(name)
        if os.path.lexists(path):
            raise click.ClickException(f"{path} exists already; give another name.")
        first = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*first, *self.messages]
        try:
            path.write_text(
                json.dumps(messages, indent=2, ensure_ascii=False) if path.suffix == ".json" else markdown(messages)
            )
        except OSError as error:
            raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from None
        show_note(f"{len(messages)} messages in {path}")

    def _clear(self, _: str) -> None:
        self.messages = []
        show_note("The conversation is empty.")


def models_that_generate(client: Client) -> list[str]:
    """Their ids, the first one first. Raises ClickException for a service that has none."""
    found = client.json("GET", "/v1/models")["data"]
    if not found:
        raise click.ClickException(f"{client.url} serves no model.")
    return [str(model["id"]) for model in found if model.get("task") == "generate"] or [str(found[0]["id"])]


def markdown(messages: list[dict[str, Any]]) -> str:
    return "\n".join(f"## {one['role']}\n\n{plain(one['content'])}\n" for one in messages)


def plain(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(part.get("text", "(an image)") for part in content)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as --json shows it."""

    id: str
    model: str
    content: str
    reasoning: str
    finish_reason: str | None  # None: it was stopped
    usage: dict[str, Any]
    first_token_s: float
    duration_s: float

    def told(self) -> str:
        """Its numbers; empty without any."""
        if not (num_tokens := self.usage.get("completion_tokens", 0)):
            return ""
        rate = num_tokens / max(self.duration_s - self.first_token_s, 1e-6)
        context = self.usage.get("total_tokens", num_tokens)
        first = f"first after {self.first_token_s:.2f} s"
        return f"({num_tokens} tokens, {rate:.0f}/s, {first}; {context:,} of the context)"


def ask(client: Client, body: dict[str, Any], messages: list[dict[str, Any]], *, is_shown: bool = True) -> Answer:
    """Show the answer while it arrives. What Ctrl-C leaves of it is an answer too."""
    began, first, last = time.monotonic(), 0.0, dict[str, Any]()
    stopped = ""
    with without_echo(), AnswerView(is_shown=is_shown) as view:
        try:
            for event in client.chat(body | {"messages": messages}):
                if isinstance(event, str):
                    if event.startswith(WAITS) and is_shown:
                        view.wait(event)
                    continue
                if "error" in event:
                    raise click.ClickException(event["error"]["message"])
                first = first or time.monotonic()
                for choice in event["choices"]:
                    show(choice, view)
                    last |= {"finish_reason": choice.get("finish_reason")}
                last |= {name: event[name] for name in ("id", "model", "usage") if event.get(name)}
        except StoppedWhileAway as left:
            stopped = f"(stopped here; {AWAY} omni cancel {left.job_id})"
        except KeyboardInterrupt:
            stopped = "(stopped)"
    now = time.monotonic()
    answer = Answer(
        last.get("id", ""), last.get("model", ""), view.text, view.thoughts, last.get("finish_reason"),
        last.get("usage", {}), round((first or now) - began, 3), round(now - began, 3),
    )  # fmt: skip
    if note := stopped or answer.told():
        show_note(note)
    return answer


def show(choice: dict[str, Any], view: AnswerView) -> None:
    if thought := choice["delta"].get("reasoning_content"):
        view.add_thought(thought)
    if content := choice["delta"].get("content"):
        view.add(content)
