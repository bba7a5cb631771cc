"""Splits the reasoning at the beginning of an answer from the text that follows, and leaves out the marks of both."""

import re
from collections.abc import Sequence
from typing import Literal

from api.reading.pieces import Blanks, Content, Piece, Reasoning, merged, num_held
from api.reading.thinking.form import ReasoningForm
from api.reading.thinking.known import THINK

State = Literal["undecided", "thinking", "beginning", "answering"]


class ReasoningParser:
    """Feed it an answer's text. White space around reasoning and beside the marks is left out.

    `opened`: the prompt ended inside the reasoning, so the answer begins there. A later opening mark is plain text.
    `is_forced`: a grammar ends the reasoning at its own closing mark alone, so what else may end it is part of it.
    """

    def __init__(self, form: ReasoningForm = THINK, *, opened: bool = False, is_forced: bool = False) -> None:
        self._form = form
        self._thought_closings = (form.marks.closing,) if is_forced else form.closings
        self._endings = self._thought_closings if is_forced else (*form.closings, *form.ends_before)
        self._state: State = "undecided"
        self._opened = opened
        self._has_reasoning = False
        self._ending = _any_of(self._endings)
        self._closing = _any_of(form.answer_closings) if form.answer_closings else None
        self._answer_mark = _any_of((*form.answer_openings, *form.answer_closings))
        self._is_marked = False  # the answer's own opening mark was read
        self._depth = 0  # openings of the same kind inside the answer's text
        self._blanks = Blanks()
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        """The text fed so far ends inside the reasoning."""
        return self._state == "thinking" or (self._state == "undecided" and self._opened)

    def feed(self, text: str) -> list[Piece]:
        if (self._state != "answering" or self._closing) and self._blanks.hold(text):
            return []
        self._held += self._blanks.before(text)
        if self._state == "undecided" and not self._decide():
            return []
        pieces: list[Piece] = self._think() if self._state == "thinking" else []
        if self._state == "beginning":
            self._begin()
        return merged([*pieces, *self._answer()]) if self._state == "answering" else pieces

    def finish(self) -> list[Piece]:
        """The pieces held back, when no text follows."""
        held, self._held = self._held + self._blanks.before(""), ""
        if self.is_thinking:
            said = held.rstrip() if self._has_reasoning else held.strip()
            return [Reasoning(said)] if said else []
        if self._state == "beginning":
            held = held.lstrip()
        if self._form.has_plain_marks and held.strip() in self._form.answer_closings:
            return []  # of an answer that the prompt began
        return [Content(held)] if held else []

    def _decide(self) -> bool:
        """Leave the undecided state if the text so far allows it."""
        begun = self._held.lstrip()
        form = self._form
        if mark := _mark_at_start(begun, form.openings):  # some models repeat the one that the prompt ended with
            self._held, self._state = begun[len(mark) :], "thinking"
        elif self._opened:
            if _may_become(begun, form.openings):
                return False
            self._state = "thinking"
        elif mark := _mark_at_start(begun, form.closings):  # reasoning that is left out
            self._held, self._state = begun[len(mark) :], "beginning"
        elif _mark_at_start(begun, form.answer_openings):
            self._state = "beginning"
        elif _may_become(begun, (*form.openings, *form.closings, *form.answer_openings)):
            return False
        else:
            self._state = "answering"
        return True

    def _think(self) -> list[Piece]:
        ending = self._ending.search(self._held)
        thought = self._held[: ending.start() if ending else len(self._held) - num_held(self._held, self._endings)]
        said = thought.rstrip() if self._has_reasoning else thought.strip()
        if ending:
            is_closed = ending[0] in self._thought_closings
            self._is_marked = is_closed and not self._form.answer_openings
            self._held = self._held[ending.end() if is_closed else ending.start() :]
            self._state = "beginning"
        elif said:
            self._held = self._held[self._held.index(said) + len(said) :]
        self._has_reasoning = self._has_reasoning or bool(said)
        return [Reasoning(said)] if said else []

    def _begin(self) -> None:
        """Leave out what stands before the answer's text; what may be a mark is held back."""
        self._held = self._held.lstrip()
        while mark := _mark_at_start(self._held, self._form.answer_openings):
            self._held, self._is_marked = self._held[len(mark) :].lstrip(), True
        if not _may_become(self._held, self._form.answer_openings):
            self._state = "answering"

    def _answer(self) -> list[Piece]:
        if self._form.has_plain_marks:
            return self._text_with_marks()
        text, self._held = self._held, ""
        if self._closing is None:
            return [Content(text)] if text else []
        pieces: list[Piece] = []
        while closing := self._closing.search(text):
            pieces.append(Content(text[: closing.start()].rstrip()))
            text = text[closing.end() :]
        said = text[: len(text) - num_held(text, self._form.answer_closings)].rstrip()
        self._held = text[len(said) :]
        return [*pieces, Content(said)]

    def _text_with_marks(self) -> list[Piece]:
        """The answer's text without its own closing mark; others in it, as of code that was asked for, are text."""
        text, position, end = self._held, 0, len(self._held)
        pieces: list[Piece] = []
        for mark in self._answer_mark.finditer(text):
            if mark[0] in self._form.answer_openings:
                self._depth += 1
            elif self._depth:
                self._depth -= 1
            elif self._is_marked:
                pieces.append(Content(text[position : mark.start()].rstrip()))
                self._is_marked, position = False, mark.end()
                continue
            elif not text[mark.end() :].strip():
                end = mark.start()  # text may follow
                break
            pieces.append(Content(text[position : mark.end()]))
            position = mark.end()
        said = text[position:end]
        if end == len(text):
            said = said[: len(said) - num_held(said, (*self._form.answer_openings, *self._form.answer_closings))]
        said = said.rstrip()
        self._held = text[position + len(said) :]
        return [*pieces, Content(said)]


def _any_of(marks: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, marks)))


def _mark_at_start(text: str, marks: Sequence[str]) -> str:
    return next((mark for mark in marks if text.startswith(mark)), "")


def _may_become(text: str, marks: Sequence[str]) -> bool:
    """True for an empty text, and for the beginning of a mark."""
    return not text or any(mark.startswith(text) for mark in marks)
