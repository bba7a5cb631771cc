"""Lark grammars as one regex."""

import json
import re

import pytest

from common.grammar.answer import json_schema_grammar
from common.grammar.check import GrammarCheck
from common.grammar.lark_pattern import MAX_PATTERN, lark_pattern
from tests.grammars import allows

LIST = """
// a list of items
start: BEGIN item+ end?
BEGIN: "* begin" LF
item: ("+" | "-" | " ") /(.*)/ LF -> line
    | "at " number LF
number: ["-"] /[0-9]{1,3}/
end: "* end"
%import common.LF
"""


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("* begin\n+a\n-\n", True),
        ("* begin\nat -12\n* end", True),
        ("* begin\n", False),
        ("* begin\n+a", False),
        ("* begin\nat 1234\n", False),
        ("begin\n+a\n", False),
    ],
)
def test_a_grammar_without_recursion_is_one_regex_and_holds_inside_a_json_string(text, is_allowed):
    pattern = lark_pattern(LIST)
    assert bool(re.fullmatch(pattern, text)) == is_allowed
    schema = {"type": "object", "properties": {"input": {"type": "string", "pattern": f"^(?:{pattern})$"}}}
    grammar = json_schema_grammar(schema | {"required": ["input"], "additionalProperties": False}, "tools")
    assert GrammarCheck().compiled(grammar)
    assert allows(grammar, json.dumps({"input": text})) == is_allowed


@pytest.mark.parametrize(
    "grammar",
    [
        'start: nested\nnested: "(" nested ")" | "x"',
        'start: "a" word',
        'start: "a"i',
        'start: "a"~3',
        'start[lazy]: "a"',
        'start: ("a"',
        "start: ?",
        '%ignore " "\nstart: "a"',
        'start: "a"\n%ignore " "',
        'item: "a"',
        "",
        "\n".join(f"r{n}: r{n + 1} r{n + 1}" for n in range(40)) + '\nr40: "a"\nstart: r0',
        f'start: "{"a" * MAX_PATTERN}" "a"',
    ],
)
def test_a_grammar_that_recurs_or_is_not_understood_has_no_regex(grammar):
    assert lark_pattern(grammar) is None
