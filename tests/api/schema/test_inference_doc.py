"""docs/api/inference.md agrees with the code for every field; a field it calls honoured changes the job."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from api.chat.prepare import prepare
from api.gate.errors import STATUS
from api.request.submission import Sender, submissions
from api.schema.chat import ChatRequest
from api.schema.unsupported import CHAT
from common.grammar.check import GrammarCheck
from tests.api.calls import call_of
from tests.api.conftest import THINKING

DOC = (Path(__file__).resolve().parents[3] / "docs" / "api" / "inference.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| [^|]+ \| (honoured|checked|ignored|refused) \|", DOC, re.MULTILINE)
HONOURED, CHECKED, IGNORED, REFUSED = (
    {name for name, fate in ROWS if fate == kind} for kind in ("honoured", "checked", "ignored", "refused")
)
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "seed": 1}
SCHEMA = {"type": "object", "properties": {}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]}
OLD = {"functions": [TOOLS["tools"][0]["function"]]}
# An example of each field that changes what is done; the second, where there is one, is what it is compared with.
EXAMPLES = {
    "messages": ({"messages": [{"role": "user", "content": "Ho"}]},),
    "temperature": ({"temperature": 0.1},),
    "top_p": ({"top_p": 0.5},),
    "max_tokens": ({"max_tokens": 5},),
    "max_completion_tokens": ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 9}),
    "n": ({"n": 2},),
    "seed": ({"seed": 2},),
    "stop": ({"stop": "x"},),
    "presence_penalty": ({"presence_penalty": 1.0},),
    "frequency_penalty": ({"frequency_penalty": 1.0},),
    "logit_bias": ({"logit_bias": {"1": 5}},),
    "logprobs": ({"logprobs": True},),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True}),
    "stream_options": ({"stream_options": {"include_usage": True}},),
    "tools": (TOOLS,),
    "tool_choice": (TOOLS | {"tool_choice": "required"}, TOOLS),
    "functions": ({"functions": [TOOLS["tools"][0]["function"]]},),
    "function_call": (OLD | {"function_call": {"name": "add"}}, OLD),
    "parallel_tool_calls": (TOOLS | {"parallel_tool_calls": False}, TOOLS),
    "response_format": ({"response_format": {"type": "json_object"}},),
    "reasoning_effort": ({"reasoning_effort": "none"},),
    "background": ({"background": True},),
    "priority": ({"priority": 5},),
    "service_tier": ({"service_tier": "flex"},),
    "store": ({"store": True},),
    "timeout": ({"timeout": 5},),
    "not_before": ({"not_before": 1.5e9},),
    "keep_alive": ({"keep_alive": "5m"},),
    "background_options": (
        {"background": True, "background_options": {"completion_window": "2h"}},
        {"background": True},
    ),
    "top_k": ({"top_k": 5},),
    "min_p": ({"min_p": 0.5},),
    "repetition_penalty": ({"repetition_penalty": 1.5},),
    "min_tokens": ({"min_tokens": 5},),
    "ignore_eos": ({"ignore_eos": True},),
    "stop_token_ids": ({"stop_token_ids": [5]},),
    "skip_special_tokens": ({"skip_special_tokens": False},),
    "continue_final_message": (
        {"messages": [{"role": "assistant", "content": "Hel"}], "continue_final_message": True},
        {"messages": [{"role": "assistant", "content": "Hel"}]},
    ),
    "add_generation_prompt": ({"add_generation_prompt": False},),
    "chat_template_kwargs": ({"chat_template_kwargs": {"enable_thinking": False}},),
    "include_reasoning": ({"include_reasoning": False},),
    "structured_outputs": ({"structured_outputs": {"choice": ["a"]}},),
    "guided_json": ({"guided_json": SCHEMA},),
    "guided_regex": ({"guided_regex": "a+"},),
    "guided_choice": ({"guided_choice": ["a"]},),
    "guided_grammar": ({"guided_grammar": 'start: "a"'},),
    "regex": ({"regex": "a+"},),
    "ebnf": ({"ebnf": 'root ::= "a"'},),
    "grammar": ({"grammar": 'root ::= "b"'},),
    "json_schema": ({"json_schema": SCHEMA},),
    "thinking": ({"thinking": {"type": "disabled"}},),
}
BY_OTHER_TESTS = {"model", "stream", "modalities"}


def test_every_field_of_the_gate_is_in_the_table_and_the_other_way_round():
    assert set(ChatRequest.model_fields) == HONOURED | CHECKED
    assert set(CHAT) == REFUSED
    assert not IGNORED & (HONOURED | CHECKED | REFUSED)
    assert len(ROWS) == len(HONOURED | CHECKED | IGNORED | REFUSED)


def test_every_honoured_field_has_an_example():
    assert set(EXAMPLES) | BY_OTHER_TESTS == HONOURED


@pytest.fixture(scope="module")
def generated(encoder_of):
    """The job that a body would enqueue, without the parts that differ from one request to the next."""
    encoder = encoder_of(chat_template=THINKING)

    class Unchecked(GrammarCheck):
        def compiled(self, grammar):
            return grammar.text  # not compiled here

    def put(change):
        raw = BODY | change
        ready = prepare(call_of(ChatRequest, raw, encoder, grammars=Unchecked()))
        [job] = submissions(ready, "chat", encoder.card, Sender("me", raw))
        request = replace(job.request, id="")
        form = {**job.form, "id": "", "created": 0}
        return json.dumps(
            [str(request), form, job.background, job.deadline_s, job.priority, job.not_before_ms, job.window_s]
        )

    return put


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_honoured(generated, name):
    changed, *compared = EXAMPLES[name]
    assert generated(changed) != generated(compared[0] if compared else {})


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_ignored(generated, name):
    assert generated({name: {"anything": 1}}) == generated({})


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_checked(generated, name):
    assert generated({name: {"a": "b"} if name == "metadata" else "a"}) == generated({})


def test_every_error_code_is_in_the_table():
    codes = {str(shown) for _, _, shown in STATUS.values() if shown is not None}
    assert {code for code in codes if f"`{code}`" not in DOC and f"| {code} |" not in DOC} == set()
