"""Grammars make a model call tools correctly, in each dialect."""

import time

import pytest

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import DIALECTS, dialect_named
from api.reading.dialects.objects.hermes import HERMES
from api.reading.dialects.tags.deepseek_v32 import DEEPSEEK_V32, DSML
from common.errors import InvalidRequest
from common.grammar.answer import MAX_GRAMMAR_BYTES, MarkedText, marked_text
from common.grammar.check import GrammarCheck
from tests.api.reading.dialects.examples import EXAMPLES
from tests.grammars import CITY, PLAIN, TREE, allows

FUNCTIONS = [
    OfferedFunction("get_weather", CITY, True),
    OfferedFunction("walk", TREE, True),
    OfferedFunction("now", None),
]
CALLS = {name: example.allowed for name, example in EXAMPLES.items()}


@pytest.fixture(scope="module")
def check():
    return GrammarCheck()


def test_every_dialect_has_an_example_here():
    assert {dialect.name for dialect in DIALECTS} == CALLS.keys()


def test_a_schema_that_is_nested_too_deeply_is_refused():
    schema = {"type": "string"}
    for _ in range(40):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(InvalidRequest) as refused:
        HERMES.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=True, marked=PLAIN)
    assert refused.value.param == "tools"


@pytest.mark.parametrize("name", CALLS)
def test_a_required_call_is_the_whole_answer(check, name):
    grammar = dialect_named(name).grammar(FUNCTIONS, must_call=True, parallel=False, marked=PLAIN)
    check.compiled(grammar)
    assert allows(grammar, CALLS[name])
    assert not allows(grammar, "It rains.")
    assert not allows(grammar, CALLS[name].replace("weather", "wether").replace("root", "toor"))


@pytest.mark.parametrize("name", CALLS)
def test_with_a_strict_function_text_is_free_and_a_call_is_not(name):
    grammar = dialect_named(name).grammar(FUNCTIONS, must_call=False, parallel=True, marked=PLAIN)
    assert allows(grammar, EXAMPLES[name].before_text + "It rains, <b>I think</b>.")
    assert allows(grammar, CALLS[name])
    assert not allows(grammar, CALLS[name].replace("weather", "wether").replace("root", "toor"))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_after_another_opening_follows_the_rules_too(name):
    dialect = dialect_named(name)
    grammar = dialect.grammar(FUNCTIONS, must_call=False, parallel=True, marked=PLAIN)
    for opening in dialect.openings[1:]:
        for before in dialect.openings:
            text = "I look. " + CALLS[name].replace(before, opening, 1).replace("weather", "wether").replace(
                "root", "toor"
            )
            assert opening not in text or not allows(grammar, text), text


@pytest.mark.parametrize("name", [dialect.name for dialect in DIALECTS if dialect.bare])
def test_free_text_does_not_begin_with_what_is_read_as_a_call(name):
    dialect = dialect_named(name)
    grammar = dialect.grammar(FUNCTIONS, must_call=False, parallel=True, marked=PLAIN)
    for begun in (f"{space}{char}{rest}" for space in ("", " \n") for char in dialect.bare for rest in ("", "g(x=1)]")):
        assert not allows(grammar, begun), begun
    assert allows(grammar, "I see [g(x=1)] and {}.")


@pytest.mark.parametrize(("name", "joint"), [("hermes", "\n"), ("mistral_args", "")])
def test_calls_are_parallel_only_when_that_is_allowed(name, joint):
    two = joint.join([CALLS[name]] * 2)
    assert allows(dialect_named(name).grammar(FUNCTIONS, must_call=True, parallel=True, marked=PLAIN), two)
    assert not allows(dialect_named(name).grammar(FUNCTIONS, must_call=True, parallel=False, marked=PLAIN), two)
    assert not allows(dialect_named(name).grammar(FUNCTIONS, must_call=False, parallel=False, marked=PLAIN), two)


def test_a_parameter_of_dsml_may_refer_to_the_whole_schema():
    schema = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}, "required": ["kids"]}
    grammar = DEEPSEEK_V32.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=False, marked=PLAIN)
    call = (
        f'\n\n<{DSML}function_calls>\n<{DSML}invoke name="f">\n<{DSML}parameter name="kids" string="false">'
        f'[{{"kids": []}}]</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}function_calls>'
    )
    assert allows(grammar, call)
    assert not allows(grammar, call.replace("[]", "[1]"))


def test_rules_across_parameters_are_refused_where_parameters_are_written_one_by_one():
    schema = {**CITY, "anyOf": [{"required": ["city"]}]}
    with pytest.raises(InvalidRequest):
        DEEPSEEK_V32.grammar([OfferedFunction("f", schema, True)], must_call=True, parallel=True, marked=PLAIN)


def test_nothing_is_enforced_where_nothing_has_to_be():
    functions = [OfferedFunction("get_weather", CITY)]
    assert HERMES.grammar(functions, must_call=False, parallel=True, marked=PLAIN) is None


def test_markers_that_are_single_tokens_are_written_by_id():
    marked = marked_text('{"added_tokens": [{"id": 7, "content": "<tool_call>", "special": false}]}')
    grammar = HERMES.grammar(FUNCTIONS, must_call=True, parallel=False, marked=marked)
    assert "start: <[7]> rest" in grammar.text
    assert '\\"</tool_call>\\"' in grammar.text.replace("\\\\n", "")


def test_schemas_whose_copies_exceed_the_limit_are_refused_before_they_are_written():
    properties = {f"p{number}": {"$ref": "#/$defs/a"} for number in range(1200)}
    schema = {"type": "object", "properties": properties, "$defs": {"a": {"type": "string"}}}
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=f"the limit is {MAX_GRAMMAR_BYTES}"):
        DEEPSEEK_V32.grammar(
            [OfferedFunction("f", schema, strict=True)], must_call=True, parallel=True, marked=MarkedText({})
        )
    assert time.process_time() - began < 3
