"""Grammars of answers with reasoning, and of texts between two marks."""

import pytest

from common.grammar.answer import choice_grammar, either
from common.grammar.thinking import (
    THINK_MARKS,
    ThoughtMarks,
    after_empty_marks,
    after_marked_text,
    after_thinking,
    between_marks,
)
from tests.grammars import PLAIN, allows

YES = choice_grammar(["yes"], "x")
FRAMED = ThoughtMarks("[T]", "[/T]", "[A]", "[/A]")


@pytest.mark.parametrize(
    ("thinking", "good", "bad"),
    [
        ("opened", ["Hm.\n</think>\n\nyes", "<think>Hm</think>yes"], ["yes", "Hm"]),
        ("optional", ["<think>Hm.</think>yes", "yes"], ["Hm</think>yes", "no"]),
        ("none", ["yes"], ["<think>Hm</think>yes"]),
        ("answering", ["yes"], ["<think>Hm</think>yes"]),
    ],
)
def test_an_answer_may_or_must_think_first(thinking, good, bad):
    grammar = after_thinking(YES, thinking, PLAIN)
    assert all(allows(grammar, text) for text in good)
    assert not any(allows(grammar, text) for text in bad)


def test_a_model_that_does_not_think_may_write_the_closing_mark_alone():
    grammar = after_thinking(YES, "optional", PLAIN, ThoughtMarks("[T]", "[/T]", closes_alone=True))
    assert allows(grammar, "[/T]yes") and allows(grammar, "[T]Hm[/T]yes") and allows(grammar, "yes")
    assert not allows(after_thinking(YES, "optional", PLAIN, FRAMED), "[/T]yes")


def test_an_answer_with_marks_of_its_own_stands_between_them():
    grammar = after_thinking(between_marks(YES, "optional", PLAIN, FRAMED), "optional", PLAIN, FRAMED)
    assert allows(grammar, "[T]Hm[/T]\n[A]\nyes\n[/A]")
    assert allows(grammar, "[A]yes[/A]")
    assert not allows(grammar, "[T]Hm[/T]yes")


def test_an_answer_that_the_prompt_has_begun_has_no_mark_before_it():
    shaped = between_marks(YES, "answering", PLAIN, FRAMED)
    assert allows(shaped, "yes") and allows(shaped, "yes[/A]") and not allows(shaped, "[A]yes")
    text_first = after_marked_text(YES, "answering", PLAIN, FRAMED)
    assert allows(text_first, "Well.[/A]yes") and allows(text_first, "yes") and not allows(text_first, "Well.yes")
    opening_only = ThoughtMarks("[T]", "[/T]", "[A]")
    assert between_marks(YES, "answering", PLAIN, opening_only) is YES
    assert after_marked_text(YES, "answering", PLAIN, opening_only) is YES


def test_the_marks_of_an_answer_without_text_may_stand_before_a_forced_call():
    assert allows(after_empty_marks(YES, "none", PLAIN, FRAMED), "[A][/A]yes")
    assert allows(after_empty_marks(YES, "none", PLAIN, FRAMED), "yes")
    begun = after_empty_marks(YES, "answering", PLAIN, FRAMED)
    assert allows(begun, "[/A]yes") and not allows(begun, "yes")


def test_forms_without_marks_around_the_answer_change_nothing():
    assert between_marks(YES, "optional", PLAIN, THINK_MARKS) is YES
    assert after_marked_text(YES, "optional", PLAIN, THINK_MARKS) is YES


def test_text_between_marks_may_stand_before_a_call():
    grammar = after_marked_text(YES, "none", PLAIN, FRAMED)
    assert allows(grammar, "[A]Well.[/A]yes")
    assert allows(grammar, "yes")
    assert not allows(grammar, "[A]Well.[/A]no")


def test_two_grammars_may_follow_the_reasoning():
    grammar = after_thinking(either(choice_grammar(["call"], "x"), YES), "optional", PLAIN)
    assert allows(grammar, "<think>Hm</think>call")
    assert allows(grammar, "yes")
    assert not allows(grammar, "<think>Hm</think>no")
