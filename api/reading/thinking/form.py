"""The record that describes one form of reasoning: its marks, and the models that write it."""

from collections.abc import Callable
from dataclasses import dataclass

from common.grammar.thinking import ThoughtMarks


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """One form of reasoning. To add one, write its record in known.py.

    An answer is the reasoning between two marks, then the text, which may stand between two marks of its own. Marks
    and the white space beside them are part of neither.
    """

    name: str  # stored with jobs: never changed
    marks: ThoughtMarks  # as the model's template writes them
    detect: Callable[[str, str], bool]  # (chat template, architecture): whether such a model writes this form
    other_openings: tuple[str, ...] = ()  # further spellings, which are read but not enforced
    other_closings: tuple[str, ...] = ()
    other_answer_openings: tuple[str, ...] = ()
    other_answer_closings: tuple[str, ...] = ()
    ends_before: tuple[str, ...] = ()  # marks of a call that end reasoning which is still open
    end_tokens: tuple[str, ...] = ()  # they end an answer, although some copies of a model do not say so
    has_plain_marks: bool = False  # the marks around the answer are no tokens, so its text may hold them too
    has_channels: bool = False  # an answer is several messages, and calls and text stand in different ones
    answers_always: bool = False  # the marks around the answer's text stand before calls too, if there is none
    shares_closing: bool = False  # other turns end with the closing mark too
    is_implied: bool = False  # an answer begins inside the reasoning although neither prompt nor model opens it

    @property
    def openings(self) -> tuple[str, ...]:
        return (self.marks.opening, *self.other_openings)

    @property
    def closings(self) -> tuple[str, ...]:
        return (self.marks.closing, *self.other_closings)

    @property
    def answer_openings(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.marks.answer_opening, *self.other_answer_openings)))

    @property
    def answer_closings(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.marks.answer_closing, *self.other_answer_closings)))

    @property
    def all_marks(self) -> tuple[str, ...]:
        return (*self.openings, *self.closings, *self.answer_openings, *self.answer_closings)
