"""The reasoning block at the beginning of an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.reading.pieces import Content, Reasoning, merged
from api.reading.reasoning import ReasoningParser
from api.reading.thinking.known import APRIEL, HUNYUAN, THINK_RESPONSE


def parse(deltas, opened=False):
    parser = ReasoningParser(opened=opened)
    pieces = [piece for delta in deltas for piece in parser.feed(delta)]
    return merged([*pieces, *parser.finish()])


def test_a_block_at_the_beginning_is_reasoning_and_the_rest_is_the_answer():
    assert parse(["<think>\nTwo and two.\n</think>\n\nFour."]) == [Reasoning("Two and two."), Content("Four.")]


def test_an_answer_without_a_block_is_untouched():
    assert parse(["  Four. ", "Yes."]) == [Content("  Four. Yes.")]


def test_a_block_that_the_prompt_opened_needs_no_opening_marker():
    assert parse(["Hm.\n</think>\n\nFour."], opened=True) == [Reasoning("Hm."), Content("Four.")]


def test_an_opening_marker_that_repeats_the_prompts_is_left_out():
    assert parse(["<think>\nHm.</think>Four."], opened=True) == [Reasoning("Hm."), Content("Four.")]


def test_reasoning_that_never_ends_is_all_reasoning():
    assert parse(["<think>Hm, </thi"]) == [Reasoning("Hm, </thi")]


def test_an_empty_block_gives_only_the_answer():
    assert parse(["<think>\n\n</think>\n\nFour."]) == [Content("Four.")]


def test_a_later_marker_is_only_text():
    text = "Use <think> and </think>."
    assert parse([text]) == [Content(text)]


@pytest.mark.parametrize("text", ["<", "<thi", "<thinking is hard", " "])
def test_text_that_only_resembles_a_marker_comes_out_at_the_end(text):
    assert parse(list(text)) == [Content(text)]


def test_half_a_marker_is_never_given_out():
    parser = ReasoningParser()
    assert parser.feed("<thi") == []
    assert parser.feed("nk>Hm</") == [Reasoning("Hm")]
    assert parser.feed("think>Four") == [Content("Four")]


def test_the_parser_knows_whether_it_is_inside_the_block():
    parser = ReasoningParser()
    states = []
    for delta in ("<think>", "Hm", "</think>", "Four"):
        parser.feed(delta)
        states.append(parser.is_thinking)
    assert states == [True, True, False, False]


fragments = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</thi", "think>", " ", "\n", "a", "bc"]), max_size=12
)


@given(fragments, st.lists(st.integers(0, 60), max_size=8), st.booleans())
def test_where_a_text_is_cut_does_not_matter(parts, cuts, opened):
    text = "".join(parts)
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    deltas = [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    assert parse(deltas, opened) == parse([text], opened) == parse(list(text), opened)


@pytest.mark.parametrize(
    ("form", "answer", "content"),
    [
        (HUNYUAN, "<answer>Write <answer>x</answer> there.</answer>", "Write <answer>x</answer> there."),
        (THINK_RESPONSE, "As XML:\n<response>a</response>\nis all", "As XML:\n<response>a</response>\nis all"),
        (THINK_RESPONSE, "<response>\nUse </response> so", "Use so"),
        (THINK_RESPONSE, "An answer that the prompt began.\n</response>\n", "An answer that the prompt began."),
        (THINK_RESPONSE, "a </response> b </response>", "a </response> b"),
        (APRIEL, "[BEGIN FINAL RESPONSE]\nFour.\n[END FINAL RESPONSE]\n", "Four."),
    ],
)  # fmt: skip
def test_an_answer_s_own_closing_mark_is_left_out_and_others_in_it_are_text(form, answer, content):
    for size in (1, 2, 5, len(answer)):
        parser = ReasoningParser(form)
        pieces = [piece for at in range(0, len(answer), size) for piece in parser.feed(answer[at : at + size])]
        assert merged([*pieces, *parser.finish()]) == [Content(content)]


def test_reasoning_before_a_forced_call_ends_at_the_mark_that_the_grammar_knows():
    answer = 'So: <tool_calls>[{"name": "rm"}]</tool_calls>\n[BEGIN FINAL RESPONSE]\nx'
    for is_forced, reasoning in ((True, 'So: <tool_calls>[{"name": "rm"}]</tool_calls>'), (False, "So:")):
        parser = ReasoningParser(APRIEL, opened=True, is_forced=is_forced)
        assert [*parser.feed(answer), *parser.finish()][0] == Reasoning(reasoning)
