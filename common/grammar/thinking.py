"""Grammars of answers that begin with reasoning, or whose text stands between two marks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from common.grammar.answer import Grammar, MarkedText, sized

THINK = "<think>"
THINK_END = "</think>"
LINE_ENDS = "/\\n{1,2}/?"

# Where an answer begins. opened: inside the reasoning, because of the prompt. optional: before reasoning, if there is
# any. none: behind the reasoning. answering: inside the answer's own text.
Thinking = Literal["none", "opened", "optional", "answering"]


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    """What a model writes around its reasoning, and around its answer if that has marks too."""

    opening: str
    closing: str
    answer_opening: str = ""
    answer_closing: str = ""
    closes_alone: bool = False  # a model that does not think writes the closing mark


THINK_MARKS = ThoughtMarks(THINK, THINK_END)


def after_thinking(
    grammar: Grammar, thinking: Thinking, marked: MarkedText, marks: ThoughtMarks = THINK_MARKS
) -> Grammar:
    """The grammar of an answer with reasoning: any text up to the closing mark, then the given grammar."""
    if thinking in ("none", "answering"):
        return grammar
    opening = marked.literal(marks.opening)  # some models repeat the one that the prompt ended with
    alone = f" | {marked.literal(marks.closing)}" if marks.closes_alone else ""
    begun = f"({opening} thought{alone})?" if thinking == "optional" else f"({opening})? thought"
    main = [f"start: {begun} @after_thought", f"thought: thought_body {LINE_ENDS}"]
    return _around(grammar, [*main, *marked.until("thought_body", marks.closing)], "after_thought")


def between_marks(grammar: Grammar, thinking: Thinking, marked: MarkedText, marks: ThoughtMarks) -> Grammar:
    """The grammar of an answer's whole text, between the marks that the model writes around it."""
    if not marks.answer_opening:
        return grammar
    closing = f" {LINE_ENDS} {marked.literal(marks.answer_closing)}" if marks.answer_closing else ""
    if thinking == "answering":
        return _around(grammar, [f"start: @marked_answer ({closing})?"], "marked_answer") if closing else grammar
    opening = f"{marked.literal(marks.answer_opening)} {LINE_ENDS}"
    return _around(grammar, [f"start: {opening} @marked_answer{closing}"], "marked_answer")


def after_marked_text(grammar: Grammar, thinking: Thinking, marked: MarkedText, marks: ThoughtMarks) -> Grammar:
    """The given grammar, before which text may stand between an answer's marks."""
    if not marks.answer_opening or (thinking == "answering" and not marks.answer_closing):
        return grammar
    opening = "" if thinking == "answering" else marked.literal(marks.answer_opening)
    if not marks.answer_closing:
        return _around(grammar, [f"start: ({opening})? @after_marked"], "after_marked")
    until = marked.until("text", marks.answer_closing)
    return _around(grammar, [f"start: ({opening} text)? @after_marked", *until], "after_marked")


def after_empty_marks(grammar: Grammar, thinking: Thinking, marked: MarkedText, marks: ThoughtMarks) -> Grammar:
    """The given grammar, before which an answer's marks stand with nothing between them."""
    closing = marked.literal(marks.answer_closing)
    begun = closing if thinking == "answering" else f"({marked.literal(marks.answer_opening)} {closing})?"
    return _around(grammar, [f"start: {begun} @after_marks"], "after_marks")


def _around(grammar: Grammar, main: list[str], name: str) -> Grammar:
    """Lark lines that refer to the grammar as `@name`."""
    head, *others = orjson.loads(grammar.text)["grammars"]
    named: Mapping[str, Any] = {**head, "name": name}
    return sized([{"lark_grammar": "\n".join(main)}, named, *others], grammar.param, is_costly=grammar.is_costly)
