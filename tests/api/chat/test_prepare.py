import json

import pytest

from api.chat.chunks import ChatMeta
from api.chat.prepare import chat_input, prepare
from api.request.submission import Sender, deadline_s, submissions
from api.schema.chat import ChatRequest
from api.schema.parse import parse
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck
from tests.api.calls import call_of
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
def test_a_call_that_must_come_is_held_to_by_a_grammar(encoder, choice):
    text = grammar(encoder, tools=[TOOL], tool_choice=choice)
    assert '"const": "add"' in text and "free" not in text


def test_a_strict_function_is_held_to_its_schema_when_it_is_called(encoder):
    assert "free" in grammar(encoder, tools=[STRICT])


def test_stop_strings_are_of_text_and_not_of_a_call_that_must_come(encoder):
    options = {"tools": [TOOL], "stop": ["Paris"]}
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        ready = prepared(encoder, **options, tool_choice=choice)
        assert ready.sampling.stop == () and ready.options.must_call
    ready = prepared(encoder, **options)
    assert ready.sampling.stop == ("Paris",) and not ready.options.must_call


def test_tools_that_may_be_called_leave_the_answer_free(encoder):
    ready = prepared(encoder, tools=[TOOL])
    assert ready.sampling.grammar is None
    assert ready.options.tool_dialect == "hermes"


def test_with_tool_choice_none_the_model_hears_of_no_tools(encoder):
    without = prepared(encoder, tools=[TOOL], tool_choice="none")
    assert without.prompt == prepared(encoder).prompt
    assert without.options.tool_dialect is None


def test_one_call_at_a_time_is_held_to_by_a_grammar(encoder):
    assert grammar(encoder, tools=[TOOL], parallel_tool_calls=False) is not None


def test_allowed_tools_are_the_only_ones_offered(encoder):
    other = {"type": "function", "function": {"name": "other"}}
    text = encoder.decode(prepared(encoder, tools=[TOOL, other], tool_choice=ALLOWED).prompt.ids)
    assert '"add"' in text and '"other"' not in text


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
def test_every_form_of_asking_for_a_shape_makes_a_grammar(encoder, change):
    assert grammar(encoder, **change) is not None


def test_with_a_shape_and_tools_the_answer_is_either_a_call_or_the_shape(encoder):
    text = grammar(encoder, tools=[TOOL], response_format=JSON_SCHEMA)
    assert "@calls | @answer" in text


def test_a_model_may_think_before_the_shape(encoder_of):
    text = grammar(encoder_of(chat_template=THINKING), response_format=JSON_SCHEMA)
    assert "thought" in text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [STRICT | {"function": STRICT["function"] | {"parameters": {"$ref": "http://x"}}}]}, "tools"),
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
def test_what_does_not_fit_together_is_refused_and_named(encoder, change, param):
    with pytest.raises(InvalidRequest) as refused:
        prepared(encoder, **change)
    assert refused.value.param == param


def test_tools_need_a_model_whose_calls_can_be_read(encoder_of):
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidRequest) as refused:
        prepared(encoder_of(chat_template=plain), tools=[TOOL])
    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"reasoning_effort": "none"}, True),
        ({"thinking": {"type": "disabled"}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, True),
        ({"reasoning_effort": "high"}, False),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, False),
    ],
)
def test_thinking_can_be_switched_off_in_each_of_the_known_ways(encoder_of, change, expected):
    text = prepared(encoder_of(chat_template=THINKING), **change).prompt
    assert (text.thinking == "none") is expected


def test_sampling_says_what_was_asked_and_the_defaults_for_the_rest(encoder):
    asked = {
        "temperature": 0.1, "top_p": 0.5, "top_k": 4, "min_p": 0.1, "seed": 7, "stop": "x", "stop_token_ids": [3],
        "logit_bias": {"5": -1.5}, "min_tokens": 2, "ignore_eos": True, "logprobs": True, "top_logprobs": 3, "n": 2,
        "presence_penalty": 0.1, "frequency_penalty": 0.2, "repetition_penalty": 1.1, "max_completion_tokens": 9,
        "max_tokens": 5, "skip_special_tokens": False,
    }  # fmt: skip
    sampling = prepared(encoder, **asked).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed) == (
        0.1,
        0.5,
        4,
        0.1,
        7,
    )
    assert (sampling.stop, sampling.stop_token_ids, sampling.logit_bias) == (("x",), (3,), ((5, -1.5),))
    assert (sampling.min_tokens, sampling.ignore_eos, sampling.logprobs, sampling.n) == (2, True, 3, 2)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.1, 0.2, 1.1)
    assert (sampling.max_tokens, sampling.skip_special_tokens) == (9, False)
    default = prepared(encoder).sampling
    assert (default.temperature, default.top_p, default.max_tokens, default.logprobs) == (0.7, 1.0, 2048, None)


def test_max_tokens_is_cut_to_what_the_context_holds(encoder):
    ready = prepared(encoder, max_tokens=1_000_000)
    assert ready.sampling.max_tokens == 4096 - len(ready.prompt.ids)


def test_the_job_carries_all_that_words_its_answer_again(encoder):
    raw = BODY | {"tools": [TOOL], "stream": True, "stream_options": {"include_usage": True}}
    ready = prepare(call_of(ChatRequest, raw, encoder))
    [job] = submissions(ready, "chat", encoder.card, Sender("me", raw, idempotency_key="k"))
    assert job.form["kind"] == "chat" and job.form["reading"]["tool_dialect"] == "hermes"
    assert job.request.cache_salt == job.owner == "me" and job.body_digest
    assert ChatMeta.from_forms([{name: job.form[name] for name in job.form if name != "kind"}]) == ready.meta


@pytest.mark.parametrize(("timeout", "header", "expected"), [(3.0, "9", 3.0), (None, "9", 9.0), (None, "x", 0.0)])
def test_the_deadline_is_the_bodys_or_the_sdks(timeout, header, expected):
    assert deadline_s(timeout, header) == expected
