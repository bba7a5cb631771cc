"""A chat request as prompt, sampling and parse options."""

import pytest

from api.schema.chat import ChatRequest
from api.schema.parse import parse
from common.errors import InvalidRequest
from tests.api.chat_requests import ALLOWED, JSON_SCHEMA, SCHEMA, STRICT, TOOL, prepared
from tests.api.conftest import THINKING


def test_stop_strings_apply_to_text_and_not_to_a_required_call(encoder):
    options = {"tools": [TOOL], "stop": ["Paris"]}
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        ready = prepared(encoder, **options, tool_choice=choice)
        assert ready.sampling.stop == () and ready.options.must_call
    ready = prepared(encoder, **options)
    assert ready.sampling.stop == ("Paris",) and not ready.options.must_call


def test_optional_tools_do_not_constrain_the_answer(encoder):
    ready = prepared(encoder, tools=[TOOL])
    assert ready.sampling.grammar is None
    assert ready.options.tool_dialect == "hermes"


def test_an_answer_that_may_call_tools_is_limited_by_the_context_alone(encoder):
    """Agents send no limit, and a call that writes a file is long. A plain chat has the default of the reference."""
    room = encoder.card.max_model_len
    ready = prepared(encoder, tools=[TOOL])
    assert ready.sampling.max_tokens == room - len(ready.prompt.ids)
    assert prepared(encoder, tools=[TOOL], max_tokens=7).sampling.max_tokens == 7
    assert prepared(encoder, tools=[TOOL], tool_choice="none").sampling.max_tokens == min(
        2048, room - len(prepared(encoder).prompt.ids)
    )


LETTERS = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "ab"+'}}
CUSTOM = {"type": "custom", "custom": {"name": "spell", "description": "Spells.", "format": LETTERS}}


def test_a_custom_tool_is_shown_as_a_function_of_one_text_and_held_to_its_grammar(encoder):
    ready = prepared(encoder, tools=[CUSTOM], tool_choice={"type": "custom", "custom": {"name": "spell"}})
    text = encoder.decode(ready.prompt.ids)
    assert "Spells." in text and "Text of this Lark grammar" in text
    assert ready.options.custom_tools == ("spell",) and ready.options.must_call
    assert '"pattern":"^(?:(?:ab)+)$"' in ready.sampling.grammar


def test_a_custom_tool_under_a_grammar_that_no_regex_has_is_only_shown_it(encoder):
    nested = {"syntax": "lark", "definition": 'start: "(" start ")" | "x"'}
    tool = {"type": "custom", "custom": {"name": "spell", "format": {"type": "grammar", "grammar": nested}}}
    ready = prepared(encoder, tools=[tool], tool_choice="required")
    assert "start " in encoder.decode(ready.prompt.ids) and "pattern" not in ready.sampling.grammar


def test_a_custom_tool_s_call_in_the_history_is_a_call_of_its_function(encoder):
    call = {"id": "c", "type": "custom", "custom": {"name": "spell", "input": 'a"b'}}
    as_function = {"id": "c", "type": "function", "function": {"name": "spell", "arguments": '{"input": "a\\"b"}'}}
    texts = [
        encoder.decode(
            prepared(encoder, messages=[{"role": "assistant", "tool_calls": [made]}], tools=[CUSTOM]).prompt.ids
        )
        for made in (call, as_function)
    ]
    assert texts[0] == texts[1] and '{"input": "a\\"b"}' in texts[0]


def test_with_tool_choice_none_the_prompt_has_no_tools(encoder):
    without = prepared(encoder, tools=[TOOL], tool_choice="none")
    assert without.prompt == prepared(encoder).prompt
    assert without.options.tool_dialect is None


def test_allowed_tools_are_the_only_ones_offered(encoder):
    other = {"type": "function", "function": {"name": "other"}}
    text = encoder.decode(prepared(encoder, tools=[TOOL, other], tool_choice=ALLOWED).prompt.ids)
    assert '"add"' in text and '"other"' not in text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        (
            {"tools": [STRICT | {"function": STRICT["function"] | {"parameters": {"$ref": "http://x"}}}]},
            "tools[0].function.parameters.$ref",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": JSON_SCHEMA, "guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"guided_json": "{"}, "guided_json"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"stop_token_ids": [100000]}, "stop_token_ids"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ],
)  # fmt: skip
def test_fields_that_contradict_each_other_are_refused_and_named(encoder, change, param):
    with pytest.raises(InvalidRequest) as refused:
        prepared(encoder, **change)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"reasoning_effort": "none"}, True),
        ({"thinking": {"type": "disabled"}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, True),
        ({"reasoning_effort": "high"}, False),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, False),
        ({"chat_template_kwargs": {"thinking": False}}, True),
        ({"chat_template_kwargs": {"thinking": False, "enable_thinking": True}}, False),
    ],
)
def test_thinking_can_be_switched_off_in_each_of_the_known_ways(encoder_of, change, expected):
    of_budget = THINKING.replace("not enable_thinking", "thinking_budget == 0").replace("enable_", "")
    for template in (THINKING, THINKING.replace("enable_thinking", "thinking"), of_budget):
        switches = change.get("chat_template_kwargs", {})
        if len(switches) > 1 and template != THINKING:
            continue
        text = prepared(encoder_of(chat_template=template), **change).prompt
        assert (text.thinking == "none") is expected


@pytest.mark.parametrize(
    ("more", "is_old"),
    [
        ({}, True),
        ({"tools": [{"type": "function", "function": {"name": "g"}}]}, False),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, False),
    ],
)
def test_an_answer_has_the_old_form_only_if_its_tools_came_as_functions(more, is_old):
    body = parse(ChatRequest, {"model": "tiny", "messages": [{"role": "user", "content": "x"}]} | more)
    assert not body.has_old_calls
    body = parse(ChatRequest, body.model_dump(exclude_none=True) | {"functions": [{"name": "f"}]})
    assert body.has_old_calls == is_old


def test_a_refusal_of_a_token_says_which_there_are(encoder):
    for change in ({"logit_bias": {"100000": 1}}, {"stop_token_ids": [100000]}):
        with pytest.raises(InvalidRequest, match=f"those from 0 to {encoder.card.vocab_size - 1}"):
            prepared(encoder, **change)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"oneOf": [{"minimum": 1}, {"multipleOf": 5}]}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a)\\1$"}}},
    ],
)
def test_a_refusal_of_a_strict_schema_names_the_function(schema, encoder):
    tools = [STRICT, {"type": "function", "function": {"name": "bad", "strict": True, "parameters": schema}}]
    with pytest.raises(InvalidRequest) as refused:
        prepared(encoder, tools=tools, tool_choice="required")
    assert refused.value.param.startswith("tools[1].function.parameters.properties.a.")
    assert "'bad'" in refused.value.message and "option" not in refused.value.message


def test_top_p_of_0_takes_the_likeliest_token(encoder):
    assert 0 < prepared(encoder, top_p=0).sampling.top_p < 1e-5
