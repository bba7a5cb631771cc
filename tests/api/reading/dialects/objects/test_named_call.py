"""Calls of marker, name, marker, JSON, marker, as the models' templates write them."""

import json
import time
from random import Random

import pytest

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import dialect_named
from api.reading.tool_calls import ToolCallParser
from tests.api.reading.dialects.rounds import babbled, calls, cut, read
from tests.grammars import CITY, PLAIN, TREE, allows
from tests.growth import is_linear

FENCED = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
TEMPLATES = {
    "deepseek_v3": ("<｜tool▁calls▁begin｜>", FENCED, "\n", "<｜tool▁calls▁end｜>"),
    "deepseek_v31": (
        *(
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
            "",
            "<｜tool▁calls▁end｜>",
        ),
    ),
    "kimi_k2": (
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>functions.{}:7<|tool_call_argument_begin|>{}<|tool_call_end|>",
        "",
        "<|tool_calls_section_end|>",
    ),
    "solar": (
        "<|tool_calls|>",
        "<|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>{}<|tool_call:args|>{}<|tool_call:end|>",
        "",
        "<|calls|>",
    ),
    "functionary_v31": ("", "<function={}>{}</function>", "", ""),
    "mistral_args": ("", "[TOOL_CALLS]{}[ARGS]{}", "", ""),
    "mistral_ids": ("", "[TOOL_CALLS]{}[CALL_ID]abcdef012[ARGS]{}", "", ""),
}
FORMS = list(TEMPLATES)
FUNCTIONS = [OfferedFunction("get_weather", CITY, True), OfferedFunction("walk", TREE, True)]


def enforced(form, made):
    """As the grammar has it: Solar's model ends its answer itself."""
    return written(form, made).removesuffix("<|calls|>")


def written(form, made, *, ascii_only=False):
    opening, call, between, closing = TEMPLATES[form]
    texts = [call.format(name, json.dumps(arguments, ensure_ascii=ascii_only)) for name, arguments in made]
    return opening + between.join(texts) + closing


@pytest.mark.parametrize("form", FORMS)
def test_what_a_template_writes_is_read_back_however_it_is_cut(form):
    drawn, dialect = Random(form), dialect_named(form)
    for number in range(400):
        made = calls(drawn)
        said = drawn.choice(("", "I look.", "a < b, <｜ or <| or [TOOL"))
        text = said + written(form, made, ascii_only=number % 2 == 0)
        assert read(dialect, cut(text, drawn)) == (made, said), text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parallel", [True, False])
def test_what_a_grammar_allows_is_read_as_calls_of_the_offered_functions(form, parallel):
    drawn, dialect = Random(form), dialect_named(form)
    grammar = dialect.grammar(FUNCTIONS, must_call=True, parallel=parallel, marked=PLAIN)
    num_ended = 0
    for _ in range(12):
        text = babbled(grammar, drawn, 1500)
        if text is None:
            continue
        num_ended += 1
        found, content = read(dialect, cut(text, drawn))
        assert content == ""
        assert 1 <= len(found) <= (16 if parallel else 1)
        for name, arguments in found:
            assert arguments.keys() >= ({"city"} if name == "get_weather" else {"root"})
            assert name == "walk" or isinstance(arguments["city"], str)
    assert num_ended


@pytest.mark.parametrize("form", FORMS)
def test_a_grammar_allows_what_the_template_writes(form):
    made = [("get_weather", {"city": "Rome"}), ("walk", {"root": {"next": None}})]
    for must_call in (True, False):
        free = dialect_named(form).grammar(FUNCTIONS, must_call=must_call, parallel=True, marked=PLAIN)
        assert allows(free, enforced(form, made))
        one = dialect_named(form).grammar(FUNCTIONS, must_call=must_call, parallel=False, marked=PLAIN)
        assert allows(one, enforced(form, made[:1]))
        assert not allows(one, enforced(form, made))
        assert not allows(free, enforced(form, [("get_weather", {"city": 3})]))
        assert not allows(free, enforced(form, [("get_weather", {})]))
        assert not allows(free, enforced(form, [("other", {"city": "Rome"})]))


@pytest.mark.parametrize("form", FORMS)
def test_the_longest_name_is_read(form):
    made = [("n" * 128, {"a": 1})]
    for deltas in ([written(form, made)], list(written(form, made))):
        assert read(dialect_named(form), deltas) == (made, "")


@pytest.mark.parametrize("form", FORMS)
def test_arguments_stream_while_they_are_written(form):
    text = written(form, [("f", {"city": "Paris"})])
    begun, _, rest = text.partition("ris")
    parser = ToolCallParser(dialect_named(form), "seed")
    start, arguments = parser.feed(begun)
    assert (start.name, arguments.text) == ("f", '{"city": "Pa')
    assert parser.feed("ris")[0].text == "ris"


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        # the section's marks are missing, or only its end
        ("deepseek_v31", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>", [("f", {})]),
        ("deepseek_v3", FENCED.format("f", "{}") + "\n" + FENCED.format("g", '{"a": 1}'), [("f", {}), ("g", {"a": 1})]),
        ("deepseek_v3", "<｜tool▁calls▁begin｜>" + FENCED.format("f", "{}"), [("f", {})]),
        # the fence is left out
        ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{}<｜tool▁call▁end｜>", [("f", {})]),
        # no arguments, or arguments as a string of JSON
        ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n```<｜tool▁call▁end｜>", [("f", {})]),
        ("deepseek_v31", "<｜tool▁call▁begin｜>f<｜tool▁sep｜><｜tool▁call▁end｜>", [("f", {})]),
        ("deepseek_v31", '<｜tool▁call▁begin｜>f<｜tool▁sep｜>"{\\"a\\": 1}"<｜tool▁call▁end｜>', [("f", {"a": 1})]),
        # an id without a number or a prefix, and white space
        ("kimi_k2", "<|tool_call_begin|>f<|tool_call_argument_begin|>{}<|tool_call_end|>", [("f", {})]),
        (
            "kimi_k2",
            "<|tool_calls_section_begin|>\n<|tool_call_begin|> functions.f:0 <|tool_call_argument_begin|> {}"
            " <|tool_call_end|>\n<|tool_calls_section_end|>",
            [("f", {})],
        ),
        ("kimi_k2", "<|tool_call_begin|>functions.a.b-c:12<|tool_call_argument_begin|>{}", [("a.b-c", {})]),
        ("functionary_v31", '<function=f>{"a": 1}', [("f", {"a": 1})]),
        ("functionary_v31", "<function=f>{}\n<function=g></function>", [("f", {}), ("g", {})]),
    ],
)
def test_slips_that_models_are_known_to_make_are_calls_all_the_same(form, text, expected):
    for deltas in ([text], list(text)):
        assert read(dialect_named(form), deltas) == (expected, "")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("deepseek_v3", "<｜tool▁calls▁begin｜> hello"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
        ("deepseek_v31", "<｜tool▁call▁begin｜>what is this?"),
        ("deepseek_v31", '<｜tool▁call▁begin｜>f<｜tool▁sep｜>"no object"<｜tool▁call▁end｜>'),
        ("kimi_k2", "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"),
        ("kimi_k2", "<|tool_call_begin|>" + "x" * 300),
        ("solar", "<|tool_call:begin|>{}"),
        ("functionary_v31", "<function=f> is how it begins {}"),
    ],
)
def test_text_that_is_no_call_comes_out_unchanged(form, text):
    for deltas in ([text], list(text)):
        assert read(dialect_named(form), deltas) == ([], text)


@pytest.mark.parametrize("form", FORMS)
def test_after_a_call_whose_arguments_are_no_json_the_next_one_is_read(form):
    text = written(form, [("f", {"a": "!"}), ("g", {})]).replace('"!"', "!")
    expected = [] if form.startswith("mistral") else [("g", {})]  # it has no mark that ends a call
    for deltas in ([text], list(text)):
        assert read(dialect_named(form), deltas) == (expected, "")


def test_openings_that_begin_no_call_are_read_in_linear_time():
    def seconds(number: int) -> float:
        began = time.process_time()
        text = "<|tool_call_begin|> x " * number
        parser = ToolCallParser(dialect_named("kimi_k2"), "seed")
        assert "".join(piece.text for piece in parser.feed(text) + parser.finish()) == text
        return time.process_time() - began

    assert is_linear(seconds, 1_000)
