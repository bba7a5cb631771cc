"""Splits `<think>…</think>` at the beginning of an answer from what follows it."""

from typing import Literal

from api.reading.pieces import Content, Piece, Reasoning, num_held
from common.grammar.answer import Thinking

OPENING = "<think>"
CLOSING = "</think>"

State = Literal["undecided", "thinking", "answering"]


def thinking_of(prompt: str, chat_template: str | None) -> Thinking:
    """Whether an answer to this rendered prompt begins with thinking: its end says so, or else the template."""
    end = prompt.rstrip()
    if end.endswith(OPENING):
        return "opened"
    return "optional" if OPENING in (chat_template or "") and not end.endswith(CLOSING) else "none"


class ReasoningParser:
    """Feed it an answer's text; blank space around the two parts is left out.

    `opened`: the prompt itself ended with `<think>`, so the answer begins inside the block. A later `<think>` is only
    text.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self._state: State = "undecided"
        self._opened = opened
        self._has_reasoning = False
        self._trims_answer = False
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        """The text fed so far ends inside the block."""
        return self._state == "thinking" or (self._state == "undecided" and self._opened)

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        if self._state == "undecided" and not self._decide():
            return []
        pieces: list[Piece] = self._think() if self._state == "thinking" else []
        return pieces + self._answer() if self._state == "answering" else pieces

    def finish(self) -> list[Piece]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        if self._state == "undecided":
            return [Reasoning(held.strip())] if self._opened and held.strip() else [Content(held)] if held else []
        if self._state == "thinking":
            return [Reasoning(held.rstrip())] if held.strip() else []
        return []  # an answer is never held, but for the blank space before it

    def _decide(self) -> bool:
        """Leave the undecided state, if the text allows it yet."""
        begun = self._held.lstrip()
        if len(begun) < len(OPENING) and OPENING.startswith(begun):
            return False
        if begun.startswith(OPENING):  # some models repeat the marker that the prompt ended with
            self._held = begun[len(OPENING) :]
            self._state = "thinking"
        else:
            self._state = "thinking" if self._opened else "answering"
        return True

    def _think(self) -> list[Piece]:
        thought, closing, rest = self._held.partition(CLOSING)
        if not closing:
            thought = thought[: len(thought) - num_held(thought, [CLOSING])]
        said = thought.rstrip() if self._has_reasoning else thought.strip()
        if closing:
            self._held, self._state, self._trims_answer = rest, "answering", True
        elif said:
            self._held = self._held[self._held.index(said) + len(said) :]
        self._has_reasoning = self._has_reasoning or bool(said)
        return [Reasoning(said)] if said else []

    def _answer(self) -> list[Piece]:
        text, self._held = self._held, ""
        if self._trims_answer:
            text = text.lstrip()
            self._trims_answer = not text
        return [Content(text)] if text else []
