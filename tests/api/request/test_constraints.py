"""Tools and response formats as one grammar."""

import json

import pytest

from tests.api.chat_requests import ALLOWED, JSON_SCHEMA, NAMED, SCHEMA, STRICT, TOOL, grammar
from tests.api.conftest import THINKING


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
    assert "@either_calls | @either_answer" in text


def test_a_model_may_think_before_a_formatted_answer(encoder_of):
    text = grammar(encoder_of(chat_template=THINKING), response_format=JSON_SCHEMA)
    assert "thought" in text


def test_a_required_call_of_a_model_without_a_form_of_its_own_is_hermes(encoder_of):
    plain = encoder_of(chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert grammar(plain, tools=[TOOL]) is None
    assert grammar(plain, tools=[TOOL], tool_choice="required") == grammar(
        encoder_of(), tools=[TOOL], tool_choice="required"
    )
    assert grammar(plain, tools=[TOOL], tool_choice="none") is None
