"""Lists and single objects of xLAM, Cohere, Granite and GigaChat, as their templates write them."""

import json
from random import Random

import pytest

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import dialect_for, dialect_named
from tests.api.reading.dialects.rounds import babbled, calls, cut, read
from tests.grammars import CITY, PLAIN, TREE, allows


def objects(made, name_key, arguments_key, **first):
    return [json.dumps(first | {name_key: name, arguments_key: value}) for name, value in made]


def cohere(made):
    listed = objects(made, "tool_name", "parameters", tool_call_id="3")
    return "<|START_ACTION|>[\n    " + ",\n    ".join(listed) + "\n]<|END_ACTION|>"


def command_r(made):
    listed = [{"tool_name": name, "parameters": value} for name, value in made]
    return f"Action:\n```json\n{json.dumps(listed, indent=4)}```"


def granite3(made):
    return "<|tool_call|>[" + ", ".join(objects(made, "name", "arguments")) + "]"


def granite_20b(made):
    return "\n".join(f"<function_call> {one}" for one in objects(made, "name", "arguments"))


def gigachat3(made):
    return "".join(f"<|message_sep|>\n\nfunction call<|role_sep|>\n{one}" for one in objects(made, "name", "arguments"))


def gigachat31(made):
    return "".join(f"<|function_call|>{one}" for one in objects(made, "name", "arguments"))


def xlam(made):
    return "[" + ", ".join(objects(made, "name", "arguments")) + "]"


WRITERS = (xlam, cohere, command_r, granite3, granite_20b, gigachat3, gigachat31)
FUNCTIONS = [OfferedFunction("get_weather", CITY, True), OfferedFunction("walk", TREE, True)]
WRITERS_BY_NAME = pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('"parameters": {} <|START_ACTION|>[ {"tool_call_id": "0", "tool_name": "f"', "cohere"),
        ('You should use the `directly-answer` tool if ... "parameters": a dict', "command_r"),
        ("<|start_of_role|>available_tools<|end_of_role|>", "granite3"),
        ("{% if available_tools %} <tool_call> <|start_of_role|>", "hermes"),
        ("<|function_call_library|>", "granite_20b"),
        ("When using tools, make calls in a single JSON array: [", "xlam"),
        ("{{ render({'role': 'function call'}) }}", "gigachat3"),
        ('function_call="<|function_call|>"', "gigachat31"),
    ],
)
def test_the_dialect_is_read_off_the_template(template, name):
    assert dialect_for(template, "").name == name


@WRITERS_BY_NAME
def test_what_a_template_writes_is_read_back_however_it_is_cut(writer):
    drawn, dialect = Random(writer.__name__), dialect_named(writer.__name__)
    for _ in range(400):
        made, said = calls(drawn), "" if writer is xlam else drawn.choice(("", "I look.", "a < b, <|"))
        assert read(dialect, cut(said + writer(made), drawn)) == (made, said)


@WRITERS_BY_NAME
def test_what_a_grammar_allows_is_read_as_calls_of_the_offered_functions(writer):
    drawn, dialect = Random(writer.__name__), dialect_named(writer.__name__)
    for parallel in (True, False):
        grammar = dialect.grammar(FUNCTIONS, must_call=True, parallel=parallel, marked=PLAIN)
        texts = [text for _ in range(8) if (text := babbled(grammar, drawn, 1500))]
        assert texts
        for text in texts:
            found, content = read(dialect, cut(text, drawn))
            assert content == ""
            assert 1 <= len(found) <= (16 if parallel else 1)
            for name, arguments in found:
                assert arguments.keys() >= ({"city"} if name == "get_weather" else {"root"})


@WRITERS_BY_NAME
def test_a_grammar_allows_what_the_template_writes_and_no_other_arguments(writer):
    for must_call in (True, False):
        grammar = dialect_named(writer.__name__).grammar(FUNCTIONS, must_call=must_call, parallel=True, marked=PLAIN)
        if writer is not command_r:  # the grammar keeps each call in one line
            assert allows(grammar, writer([("get_weather", {"city": "Rome"})]))
        for wrong in (("get_weather", {"city": 3}), ("get_weather", {}), ("other", {"city": "Rome"})):
            assert not allows(grammar, writer([wrong]))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cohere", '<|START_ACTION|>{"tool_name": "f", "parameters": {}}', [("f", {})]),
        ("cohere", '<|START_ACTION|>[{"tool_call_id": 0, "tool_name": "f"}]<|END_ACTION|>', [("f", {})]),
        ("command_r", 'Action: ```json\n[{"tool_name": "f", "parameters": {"a": 1}}]\n```\n', [("f", {"a": 1})]),
        ("granite3", '<tool_call>[{"name": "f", "arguments": {}}]', [("f", {})]),
        ("gigachat3", 'function call<|role_sep|>\n{"name": "f", "arguments": {}}', [("f", {})]),
    ],
)
def test_slips_that_models_are_known_to_make_are_calls_all_the_same(name, text, expected):
    for deltas in ([text], list(text)):
        found, content = read(dialect_named(name), deltas)
        assert (found, content.strip()) == (expected, "")


@pytest.mark.parametrize(
    "text", ['[{"name": "Ada", "age": 36}]', "[1] says so", "[]", '{"name": "Ada"}', '[{"name": "Ada"}]', "Hi [{"]
)
def test_an_answer_in_json_that_is_no_call_is_text_for_a_form_without_marks(text):
    for deltas in ([text], list(text)):
        assert read(dialect_named("xlam"), deltas) == ([], text)


@pytest.mark.parametrize("name", ["xlam", "llama3_json"])
def test_an_answer_may_not_hide_a_call_behind_white_space(name):
    grammar = dialect_named(name).grammar(FUNCTIONS, must_call=False, parallel=True, marked=PLAIN)
    assert allows(grammar, "\n It rains. {[")
    assert allows(grammar, "")
    assert not allows(grammar, '\n {"name": "other", "parameters": {}}')
