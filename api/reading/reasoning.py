"""Splits `<think>…</think>` at the beginning of an answer from the text that follows."""

from typing import Literal

from api.reading.pieces import Content, Piece, Reasoning, num_held
from common.grammar.answer import THINK, THINK_END

State = Literal["undecided", "thinking", "answering"]


class ReasoningParser:
    """Feed it an answer's text. White space around the two parts is left out.

    `opened`: the prompt ended with `<think>`, so the answer begins inside the block. Any later `<think>` is plain text.
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
        """The pieces held back, when no text follows."""
        held, self._held = self._held, ""
        if self._state == "undecided":
            return [Reasoning(held.strip())] if self._opened and held.strip() else [Content(held)] if held else []
        if self._state == "thinking":
            return [Reasoning(held.rstrip())] if held.strip() else []
        return []  # only white space before the answer is held back

    def _decide(self) -> bool:
        """Leave the undecided state if the text so far allows it."""
        begun = self._held.lstrip()
        if len(begun) < len(THINK) and THINK.startswith(begun):
            return False
        if begun.startswith(THINK):  # some models repeat the marker that the prompt ended with
            self._held = begun[len(THINK) :]
            self._state = "thinking"
        else:
            self._state = "thinking" if self._opened else "answering"
        return True

    def _think(self) -> list[Piece]:
        thought, closing, rest = self._held.partition(THINK_END)
        if not closing:
            thought = thought[: len(thought) - num_held(thought, [THINK_END])]
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
