"""Every form of reasoning: recognised by its template, and read in any cutting."""

from random import Random

import pytest

from api.reading.choice import ParseOptions, parse_options, stored_options
from api.reading.pieces import Content, Reasoning, merged
from api.reading.reasoning import ReasoningParser
from api.reading.thinking.known import FORMS, THINK, form_for, form_named

THOUGHTS = ("Two and two.", "Hm <b>, [/T] and <|e", "a\n\n b", "über 😀 </")
ANSWERS = ("Four.", '{"a": "<x>"}', "  # Head\n\n- <thinking>\n- [THIN", "x < y </")


def read(form, text, rng, *, opened=False):
    parser = ReasoningParser(form, opened=opened)
    pieces = []
    while text:
        size = rng.choice((1, 2, 5, 20, len(text)))
        pieces += parser.feed(text[:size])
        text = text[size:]
    return merged([*pieces, *parser.finish()])


def spaces(rng):
    return rng.choice(("", "", "\n", "\n\n", " "))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_reasoning_and_answer_are_read_back_in_any_cutting(form):
    for seed in range(300):
        rng = Random(seed)
        thought, answer = rng.choice(THOUGHTS), rng.choice(ANSWERS).strip()
        opened = rng.random() < 0.4
        text = "" if opened else spaces(rng) + rng.choice(form.openings)
        text += spaces(rng) + thought + spaces(rng) + rng.choice(form.closings) + spaces(rng)
        if form.answer_openings and rng.random() < 0.8:
            text += rng.choice(form.answer_openings) + spaces(rng)
        text += answer
        if form.answer_closings and rng.random() < 0.8:
            text += spaces(rng) + rng.choice(form.answer_closings)
        assert read(form, text, rng, opened=opened) == [Reasoning(thought.strip()), Content(answer)], (seed, text)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_where_a_broken_answer_is_cut_does_not_matter(form):
    parts = [*form.all_marks, *form.ends_before, " ", "\n", "a", "bc", "<", "</", "[", "<|", "Here"]
    halves = [mark[: len(mark) // 2] for mark in form.all_marks]
    for seed in range(300):
        rng = Random(seed)
        text = "".join(rng.choices([*parts, *halves], k=rng.randrange(10)))
        opened = rng.random() < 0.5
        whole = ReasoningParser(form, opened=opened)
        assert read(form, text, rng, opened=opened) == merged([*whole.feed(text), *whole.finish()]), (seed, text)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_an_answer_without_reasoning_is_untouched_but_for_its_own_marks(form):
    rng = Random(0)
    assert read(form, "  Four. ", rng) == [Content("  Four. ")]
    if form.answer_openings:
        assert read(form, f"{form.marks.answer_opening}Four.{form.marks.answer_closing}", rng) == [Content("Four.")]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_block_that_is_only_closed_is_left_out(form):
    assert read(form, f"{form.marks.closing}\nFour.", Random(0)) == [Content("Four.")]


def test_a_call_ends_reasoning_that_was_not_closed():
    form = form_named("kimi_k2")
    text = "<think>Hm.<|tool_calls_section_begin|>..."
    for seed in range(50):
        assert read(form, text, Random(seed)) == [Reasoning("Hm."), Content("<|tool_calls_section_begin|>...")]


@pytest.mark.parametrize(
    ("template", "architecture", "name"),
    [
        (None, "llama", "think"),
        ("... no marks ...", "llama", "think"),
        ("<think> </think>", "qwen3", "think"),
        ("{{ '[THINK]' + block['thinking'] + '[/THINK]' }}", "mistral3", "brackets"),
        ("{%- set think_begin_token = '<seed:think>' -%}", "seed_oss", "seed"),
        ("{%- set think_begin_token = '<mm:think>' -%}", "minimax_m3", "minimax_m3"),
        ("{{- '<|channel>thought\\n<channel|>' -}}", "gemma4", "gemma4"),
        ("<|START_THINKING|> <|START_RESPONSE|>", "cohere2", "cohere"),
        ("<|START_THINKING|> <|START_TEXT|>", "cohere2", "cohere_text"),
        ("after 'Here is my thought process:' and 'Here is my response:'", "granite", "granite"),
        ("between <think></think> and <response></response>", "granite", "think_response"),
        ("'<think>' and '<response>' ~ result ~ '</response>'", "minimax_m2", "think"),
        ("'</think>\\n\\n<response>\\n'", "ernie4_5_moe", "think_response"),
        ("'<think>\\n\\n</think>\\n' content.split('<answer>')", "hunyuan_v1_moe", "hunyuan"),
        ("format: [BEGIN FINAL RESPONSE] ... [END FINAL RESPONSE]", "llava", "apriel"),
        ("<|begin|>assistant<|think|>", "solar_open", "solar"),
        ("<|inner_prefix|>", "apertus", "apertus"),
        ("'<|start|>assistant<|channel|>analysis<|message|>' + message.thinking", "gpt_oss", "harmony"),
        ("'<|role_sep|>' and '<|message_sep|>'", "deepseek_v3", "gigachat"),
        ("<thought> content.split('</thought>')", "exaone", "exaone"),
        ("'<think{}>'.format(HYTK) ':opensource'", "hunyuan", "hy3"),
        ("<｜Assistant｜> content.split('</think>')[-1]", "llama", "implied_think"),
        ("content.split('</think>')[-1]", "lfm2", "think"),
    ],
)
def test_a_template_tells_its_form(template, architecture, name):
    assert form_for(template, architecture).name == name


def test_names_are_unique_and_stored_unless_the_form_is_the_usual_one():
    assert len({form.name for form in FORMS}) == len(FORMS)
    assert "reasoning_form" not in stored_options(ParseOptions())
    options = ParseOptions(reasoning_form="seed")
    assert parse_options(stored_options(options)) == options
    assert parse_options(stored_options(ParseOptions())).reasoning_form == THINK.name
