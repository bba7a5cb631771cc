"""Tools and response formats as one grammar."""

import json

import pytest

from api.chat.prepare import chat_input
from api.schema.chat import ChatRequest
from api.schema.parse import parse
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck
from tests.api.conftest import THINKING

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {"name": "add", "parameters": SCHEMA, "strict": True}}
NAMED = {"type": "function", "function": {"name": "add"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
GRAMMARS = GrammarCheck()


def prepared(encoder, **changes):
    return chat_input(parse(ChatRequest, BODY | changes), encoder, GRAMMARS)


def grammar(encoder, **changes):
    text = prepared(encoder, **changes).sampling.grammar
    return None if text is None else json.dumps(json.loads(text))


@pytest.mark.parametrize("choice", ["required", NAMED, ALLOWED])
def test_a_required_call_is_constrained_by_a_grammar(encoder, choice):
    text = grammar(encoder, tools=[TOOL], tool_choice=choice)
    assert '"const": "add"' in text and "free" not in text


def test_a_strict_function_is_constrained_to_its_schema(encoder):
    assert "free" in grammar(encoder, tools=[STRICT])


def test_a_single_call_is_constrained_by_a_grammar(encoder):
    assert grammar(encoder, tools=[TOOL], parallel_tool_calls=False) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": JSON_SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"guided_json": json.dumps(SCHEMA)},
        {"guided_choice": ["a", "b"]},
        {"json_schema": SCHEMA},
    ],
)
def test_every_way_to_ask_for_a_format_makes_a_grammar(encoder, change):
    assert grammar(encoder, **change) is not None


def test_with_a_format_and_tools_the_answer_is_either_a_call_or_has_the_format(encoder):
    text = grammar(encoder, tools=[TOOL], response_format=JSON_SCHEMA)
    assert "@calls | @answer" in text


def test_a_model_may_think_before_a_formatted_answer(encoder_of):
    text = grammar(encoder_of(chat_template=THINKING), response_format=JSON_SCHEMA)
    assert "thought" in text


def test_tools_need_a_model_whose_calls_can_be_read(encoder_of):
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidRequest) as refused:
        prepared(encoder_of(chat_template=plain), tools=[TOOL])
    assert refused.value.param == "tools"
