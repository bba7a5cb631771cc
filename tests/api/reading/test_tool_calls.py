"""Answers in each dialect: calls and content come out, however the text is cut."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.reading.answer import AnswerParser
from api.reading.dialects.json_value import strict_json
from api.reading.dialects.known import DIALECTS, dialect_named
from api.reading.dialects.tags.deepseek_v32 import DSML
from api.reading.pieces import Content, Reasoning, ToolCallArguments, ToolCallEnd, ToolCallStart, merged
from api.reading.thinking.known import HARMONY, HUNYUAN, THINK
from api.reading.tool_calls import ToolCallParser
from tests.api.reading.dialects.examples import EXAMPLES
from tests.api.reading.dialects.objects.examples import HERMES
from tests.api.reading.dialects.tags.examples import DEEPSEEK
from tests.growth import is_linear

FORMATS = [dialect.name for dialect in DIALECTS]


def parse(format, deltas):
    parser = ToolCallParser(dialect_named(format), "job-1/0")
    pieces = [piece for delta in deltas for piece in parser.feed(delta)]
    return merged([*pieces, *parser.finish()])


def calls(pieces):
    """(name, arguments) of every call, and the content around them."""
    names = {piece.index: piece.name for piece in pieces if isinstance(piece, ToolCallStart)}
    texts = dict.fromkeys(names, "")
    for piece in pieces:
        if isinstance(piece, ToolCallArguments):
            texts[piece.index] += piece.text
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    return [(names[index], texts[index]) for index in sorted(names)], content


@pytest.mark.parametrize(
    ("format", "text", "expected"),
    [
        ("hermes", HERMES, [("get_weather", '{"city": "Paris"}')]),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "g"}', [("f", "{}"), ("g", "{}")]),
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [("f", '{"a": 1}')]),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [("f", '{"a": 1}')]),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', [("f", "{}")]),
        ("hermes", "<tool_call>{'name': 'f', 'arguments': {'a': True,},}</tool_call>", [("f", '{"a": true}')]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "}"}}}\n</tool_call>', [("f", '{"a": "}"}')]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}', [("f", "{}")]),
        ("hermes", '<tool_call>\n[{"name": "f"}, {"name": "g"}]\n</tool_call>', [("f", "{}"), ("g", "{}")]),
        ("hermes", '<tool_call>{"function": {"name": "f", "arguments": {"a": 1}}}</tool_call>', [("f", '{"a": 1}')]),
        ("hermes", '<tool_call>{"id": "1", "type": "function", "function": {"name": "f"}}</tool_call>', [("f", "{}")]),
        ("llama3_json", '{"type": "function", "function": "f", "parameters": {"a": 1}}', [("f", '{"a": 1}')]),
        ("llama3_json", '{"function": {"name": "f", "parameters": {"a": 1}}}', [("f", '{"a": 1}')]),
        ("llama3_json", '{"name": "f", "parameters": {"a": [1, 2]}}', [("f", '{"a": [1, 2]}')]),
        ("llama3_json", '<|python_tag|>{"type": "function", "name": "f", "parameters": {}}', [("f", "{}")]),
        ("llama3_json", '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', [("f", "{}"), ("g", "{}")]),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": "]"}}]', [("f", '{"a": "]"}')]),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}},\n{"name": "g"}]', [("f", "{}"), ("g", "{}")]),
        ("mistral", '[TOOL_CALLS]{"name": "f", "arguments": {}}', [("f", "{}")]),
        ("mistral_args", '[TOOL_CALLS]f[ARGS]{"a": {"b": 2}}', [("f", '{"a": {"b": 2}}')]),
        ("mistral_args", '[TOOL_CALLS]f[CALL_ID]abc12[ARGS]{}[TOOL_CALLS]g{"x": 1}', [("f", "{}"), ("g", '{"x": 1}')]),
        ("deepseek_v32", DEEPSEEK, [("get_weather", '{"city": "Paris \\"X\\" <b>", "days": 3}'), ("now", "{}")]),
    ],
)  # fmt: skip
def test_each_format_is_read_as_calls_with_nothing_left_as_text(format, text, expected):
    assert calls(parse(format, [text])) == (expected, "")
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in expected)


def test_text_before_and_after_a_call_is_content_without_the_blank_space_between():
    assert calls(parse("hermes", ["I look.\n\n" + HERMES + "\nDone."]))[1] == "I look.\nDone."
    assert calls(parse("hermes", ["I look.\n\n" + HERMES + "\n"]))[1] == "I look."


def test_arguments_stream_as_they_are_written():
    parser = ToolCallParser(dialect_named("hermes"), "seed")
    assert parser.feed('<tool_call>{"name": "f", "argu') == []
    start, first = parser.feed('ments": {"city": "Pa')
    assert (start.name, first.text) == ("f", '{"city": "Pa')
    assert parser.feed('ris"}') == [ToolCallArguments(0, 'ris"}'), ToolCallEnd(0)]


def test_a_string_parameter_of_dsml_streams_as_json():
    parser = ToolCallParser(dialect_named("deepseek_v32"), "seed")
    parser.feed(f'<{DSML}function_calls>\n<{DSML}invoke name="f">\n<{DSML}parameter name="a" string="true">')
    assert parser.feed('two\n"words"') == [ToolCallArguments(0, 'two\\n\\"words\\"')]


def test_a_dsml_value_that_is_not_json_becomes_a_string():
    text = DEEPSEEK.replace(">3<", ">three<")
    [(_, arguments), _] = calls(parse("deepseek_v32", [text]))[0]
    assert json.loads(arguments)["days"] == "three"


BROKEN = [
    ("hermes", "<tool_call>not json</tool_call>"),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>\n{"na'),
    ("hermes", "a < b, <tool"),
    ("hermes", "</tool_call>"),
    ("llama3_json", '{"city": "Paris", "days": 3}'),
    ("llama3_json", '{"name": "Ada", "age": 36}'),
    ("llama3_json", '{"name": "Ada"}'),
    ("llama3_json", '{"function": {"x": 1}, "parameters": {}}'),
    ("llama3_json", '{"function": "sin"}'),
    ("hermes", "<tool_call>[1, 2]</tool_call>"),
    ("llama3_json", "{1, 2}"),
    ("llama3_json", "<|python_tag|>print(1)"),
    ("mistral", "[TOOL_CALLS] [1, 2]"),
    ("mistral", "[TOOL_CALLS] []"),
    ("mistral", "[TOOL_CALLS] ["),
    ("mistral_args", "[TOOL_CALLS]what is this?"),
    ("mistral_args", "[TOOL_CALLS]f[ARGS]"),
    ("deepseek_v32", f"<{DSML}function_calls>\n<{DSML}invoke>"),
    ("deepseek_v32", f"<{DSML}function_calls>\nhello"),
    ("deepseek_v32", f"<{DSML}function_calls></{DSML}function_calls>"),
    ("deepseek_v32", f"I write <{DSML}func"),
]


@pytest.mark.parametrize(("format", "text"), BROKEN)
def test_text_that_is_not_a_call_comes_out_unchanged(format, text):
    assert calls(parse(format, [text])) == ([], text)
    assert calls(parse(format, list(text))) == ([], text)


@pytest.mark.parametrize("format", FORMATS)
def test_plain_text_is_untouched(format):
    text = "  Hello, <b>world</b>!\n\n- a [link]\n"
    assert parse(format, list(text)) == [Content(text)]


def test_a_call_that_breaks_after_it_began_leaks_no_markup():
    text = '<tool_call>{"name": "f", "arguments": {"a": 1]}}</tool_call>Bye.'
    assert calls(parse("hermes", [text])) == ([("f", '{"a": 1')], "Bye.")


@pytest.mark.parametrize("format", FORMATS)
def test_a_call_that_is_cut_off_is_neither_complete_nor_text(format):
    text = EXAMPLES[format].written
    for cut in range(len(text) + 1):
        parser = ToolCallParser(dialect_named(format), "job-1/0", must_call=True)
        pieces = merged([*parser.feed(text[:cut]), *parser.finish(is_cut=True)])
        whole = {piece.index for piece in pieces if isinstance(piece, ToolCallEnd)}
        found, content = calls(pieces)
        assert content == ""
        assert parser.has_called == (len(found) == len(whole) > 0)
        for index, (_, arguments) in enumerate(found):
            if index in whole:
                assert isinstance(json.loads(arguments), dict)
            else:
                with pytest.raises(ValueError):
                    json.loads(arguments)
    assert parser.has_called


@pytest.mark.parametrize("format", ["hermes", "mistral", "mistral_args", "deepseek_v32"])
def test_an_optional_call_that_is_cut_off_leaks_no_markup(format):
    opening = dialect_named(format).openings[0]
    begun = EXAMPLES[format].written.lstrip()[: len(opening) + 10]
    for text, content in ((begun, ""), ("I look." + begun, "I look."), (opening[:-1], opening[:-1])):
        parser = ToolCallParser(dialect_named(format), "job-1/0")
        assert calls([*parser.feed(text), *parser.finish(is_cut=True)]) == ([], content)


def test_an_answer_in_json_that_is_cut_off_is_still_text():
    parser = ToolCallParser(dialect_named("llama3_json"), "job-1/0")
    assert calls([*parser.feed('{"city": "Par'), *parser.finish(is_cut=True)]) == ([], '{"city": "Par')
    parser = ToolCallParser(dialect_named("llama3_json"), "job-1/0")
    assert calls([*parser.feed('{"name'), *parser.finish(is_cut=True)]) == ([], '{"name')


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"x": True, "y": [None, False], "z": 1.5e3}', '{"x": true, "y": [null, false], "z": 1.5e3}'),
        ('{"a": "one\ntwo\t\\d \\u00e4"}', '{"a": "one\\ntwo\\t\\\\d \\u00e4"}'),
        ("{'a': 'b \"c\" \\'d\\' \\n', 'e': [\"it's\"]}", '{"a": "b \\"c\\" \'d\' \\n", "e": ["it\'s"]}'),
        ('{"a": [1, 2,], "b": {"c": NaN, }, }', '{"a": [1, 2], "b": {"c": null } }'),
        ('{"a": 1, // one, "two"\n"b": /* } */ -Infinity # **/\n}', '{"a": 1, "b":  null }'),
    ],
)
def test_unambiguous_faults_are_repaired(written, arguments):
    for format, text in (
        ("hermes", f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>'),
        ("llama3_json", f'{{"name": "f", "parameters": {written}}}'),
        ("mistral_args", f"[TOOL_CALLS]f[ARGS]{written}"),
    ):
        assert calls(parse(format, list(text))) == ([("f", arguments)], "")
        assert ToolCallEnd(0) in parse(format, [text])
    json.loads(arguments)


@pytest.mark.parametrize(
    "bad", ["{'a': 1]", '{"a": Tru}', '{"a": 1,,}', '{"a": Na}', '{"a" 1}', '{"a": "\\uZ"}', "{1: 2}", "{]", "{/1}"]
)
@pytest.mark.parametrize("format", ["hermes", "mistral_args"])
def test_a_call_with_invalid_arguments_is_neither_complete_nor_text(format, bad):
    text = {
        "hermes": f'<tool_call>{{"name": "f", "arguments": {bad}}}</tool_call>',
        "mistral_args": f"[TOOL_CALLS]f[ARGS]{bad}",
    }[format]
    parser = ToolCallParser(dialect_named(format), "job-1/0")
    pieces = merged([*parser.feed(text), *parser.finish()])
    assert not parser.has_called
    assert not any(isinstance(piece, ToolCallEnd) for piece in pieces)
    [(name, arguments)], content = calls(pieces)
    assert (name, content) == ("f", "")
    assert strict_json(arguments) is None


def test_ids_follow_from_the_seed_and_differ_between_calls():
    first = [piece.id for piece in parse("hermes", [HERMES + HERMES]) if isinstance(piece, ToolCallStart)]
    again = [piece.id for piece in parse("hermes", list(HERMES + HERMES)) if isinstance(piece, ToolCallStart)]
    assert first == again
    assert len(set(first)) == 2
    assert first[0].startswith("call_")


def test_mistrals_call_ids_have_nine_characters_as_its_templates_require():
    start = parse("mistral", ['[TOOL_CALLS][{"name": "f", "arguments": {}}]'])[0]
    assert len(start.id) == 9
    assert start.id.isalnum()


@pytest.mark.parametrize("format", FORMATS)
@given(choice=st.data())
def test_where_a_text_is_cut_does_not_matter(format, choice):
    text = "".join(choice.draw(st.lists(st.sampled_from(EXAMPLES[format].parts), max_size=9)))
    edges = sorted({0, len(text), *choice.draw(st.lists(st.integers(0, len(text)), max_size=9))})
    deltas = [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    assert parse(format, deltas) == parse(format, [text]) == parse(format, list(text))


def test_an_answer_is_reasoning_then_content_then_calls():
    parser = AnswerParser(dialect_named("hermes"), "job-1/0")
    pieces = parser.feed("<think>Which <tool_call>?</think>\n\nI look.\n" + HERMES) + parser.finish()
    assert pieces[:2] == [Reasoning("Which <tool_call>?"), Content("I look.")]
    assert [type(piece) for piece in pieces[2:]] == [ToolCallStart, ToolCallArguments, ToolCallEnd]
    assert parser.has_called


@pytest.mark.parametrize("format", ["hermes", "kimi_k2", "functionary_v31"])
def test_white_space_after_a_call_is_read_in_linear_time(format):
    def seconds(num_blanks):
        parser = ToolCallParser(dialect_named(format), "s")
        parser.feed(EXAMPLES[format].written.rpartition("<")[0])
        began = time.process_time()
        for _ in range(num_blanks):
            parser.feed("    ")
        return time.process_time() - began

    assert is_linear(seconds, 5_000)


@pytest.mark.parametrize(
    ("name", "form", "begun"),
    [
        ("hermes", THINK, ""),
        ("hermes", THINK, "Hello."),
        ("hermes", THINK, HERMES),
        ("hermes", THINK, "<think>"),
        ("hermes", THINK, "<think>Hm."),
        ("hermes", THINK, "<think>Hm.</think>"),
        ("hermes", HUNYUAN, "<answer>Hello."),
        ("harmony", HARMONY, "<|channel|>analysis<|message|>Hm."),
        ("harmony", HARMONY, "<|channel|>analysis<|message|>Hm.<|end|>"),
        ("harmony", HARMONY, "<|channel|>final<|message|>Hello."),
    ],
)
def test_white_space_that_is_held_back_is_read_in_linear_time(name, form, begun):
    parser = AnswerParser(dialect_named(name), "s", form=form)
    parser.feed(begun)
    began = time.process_time()
    for _ in range(40_000):
        parser.feed("    ")
    pieces = parser.feed("<b>")
    assert time.process_time() - began < 5  # it took 10 s when each blank was joined to those before it
    assert not begun or "".join(piece.text for piece in pieces).endswith("<b>")
