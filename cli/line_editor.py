"""The prompt of `omni chat` on a terminal: line editing, history, completion, messages of several lines."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from common.environment import callers_folder, child_environment

QUOTED_PATH = re.compile(r'(?<!\S)@"([^"\n]*)$')


def line_editor(commands: Mapping[str, str], models: Callable[[], list[str]]) -> Callable[[], str]:
    """A function that asks for a message. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        HTML("<ansigreen>you</ansigreen>> "),
        multiline=True,  # pasted lines stay one message; Enter sends
        key_bindings=keys,
        history=history(),
        completer=MessageCompleter(commands, models),
        complete_while_typing=False,
        prompt_continuation=lambda width, line, wrapped: " " * width,
    )
    return session.prompt


def history() -> History:
    """In a file that only this user can read; in memory where there can be none."""
    home = child_environment().get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(home).expanduser() / "omni" / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


class MessageCompleter(Completer):
    """/commands at the beginning, model ids after /model, paths after @."""

    def __init__(self, commands: Mapping[str, str], models: Callable[[], list[str]]) -> None:
        self._commands = commands
        self._models = models
        self._paths = PathCompleter(expanduser=True, get_paths=lambda: [str(callers_folder())])

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        word = before.split()[-1] if before and not before[-1].isspace() else ""
        if before.startswith("/model "):
            known = self._models()
            yield from (Completion(name, -len(word)) for name in known if name.startswith(word))
        elif before.startswith("/") and before == word:
            for name, text in self._commands.items():
                if name.startswith(word):
                    yield Completion(name, -len(word), display_meta=text)
        elif quoted := QUOTED_PATH.search(before):
            yield from self._paths.get_completions(Document(quoted[1]), complete_event)
        elif word.startswith("@"):
            for found in self._paths.get_completions(Document(word[1:]), complete_event):
                yield in_quotes(word[1:], found) if " " in found.text else found


def in_quotes(typed: str, found: Completion) -> Completion:
    """A path with a blank, in place of what was typed of it; its end is typed, as a folder's path may go on."""
    whole = typed[: len(typed) + found.start_position] + found.text
    return Completion(f'"{whole}', -len(typed), display=found.display)
