"""Custom tools as functions."""

import copy

import pytest

from api.reading.dialects.known import DIALECTS
from api.request.constraints import grammar_of, offered_tools
from api.request.custom_tools import as_function, check_rules
from api.schema.chat import ChatRequest, CustomTool
from api.schema.parse import parse
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck
from tests.api.chat_requests import BODY

RULES = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "xyz"+'}}
CUSTOM = {"type": "custom", "custom": {"name": "spell", "format": RULES}}
STRICT = {"type": "function", "function": {"name": "patterned", "strict": True}}


def test_a_regex_is_the_whole_input():
    rules = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a|b"}}
    tool = as_function(CustomTool.model_validate({"type": "custom", "custom": {"name": "spell", "format": rules}}))
    text = tool.function.parameters["properties"]["input"]
    assert text["pattern"] == "^(?:a|b)$" and "a|b" in text["description"]


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_custom_tool_is_taken_in_every_form_of_calls(dialect, choice, encoder):
    other = copy.copy(encoder)
    other.tool_dialect = dialect
    body = parse(ChatRequest, BODY | {"tools": [CUSTOM], "tool_choice": choice})
    assert grammar_of(body, offered_tools(body), other, "none") is not None


@pytest.mark.parametrize(
    ("rules", "is_taken"),
    [("%%%bad", False), ('start: "a" start_', False), ('start: "a" start | "b"', True), ('start: "xyz"+', True)],
)
def test_a_lark_grammar_that_is_none_is_refused_and_one_that_is_not_regular_taken(rules, is_taken):
    form = {"type": "grammar", "grammar": {"syntax": "lark", "definition": rules}}
    tool = CustomTool.model_validate({"type": "custom", "custom": {"name": "spell", "format": form}})
    if is_taken:
        check_rules([tool], GrammarCheck())
        return
    with pytest.raises(InvalidRequest) as refused:
        check_rules([tool], GrammarCheck())
    assert refused.value.param == "tools[0].custom.format.grammar.definition"


def test_a_function_s_own_schema_is_still_refused_where_it_cannot_be_enforced(encoder):
    [dialect] = [dialect for dialect in DIALECTS if dialect.name == "gemma4"]
    other = copy.copy(encoder)
    other.tool_dialect = dialect
    schema = as_function(CustomTool.model_validate(CUSTOM)).function.parameters
    function = STRICT["function"] | {"parameters": schema}
    body = parse(ChatRequest, BODY | {"tools": [CUSTOM, STRICT | {"function": function}]})
    with pytest.raises(InvalidRequest, match="patterned"):
        grammar_of(body, offered_tools(body), other, "none")
