"""The job of a prepared request."""

import json
from dataclasses import replace

import pytest

from api.chat.chunks import ChatMeta
from api.chat.prepare import prepare
from api.reading.choice import ParseOptions
from api.request.response_meta import ResponseMeta
from api.request.submission import Prepared, QueueOptions, Sender, submissions
from api.schema.chat import ChatRequest
from common.wire import GenerationRequest, SamplingParams
from tests.api.calls import call_of

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}


def test_the_job_stores_all_that_its_answer_is_worded_from(encoder):
    raw = BODY | {"tools": [TOOL], "stream": True, "stream_options": {"include_usage": True}}
    ready = prepare(call_of(ChatRequest, raw, encoder))
    [job] = submissions(ready, "chat", encoder.card, Sender("me", raw, idempotency_key="k"))
    assert job.form["kind"] == "chat" and job.form["reading"]["tool_format"] == "hermes"
    assert job.request.cache_salt == job.owner == "me" and job.body_digest
    assert ChatMeta.from_forms([{name: job.form[name] for name in job.form if name != "kind"}]) == ready.meta


def test_a_form_stored_by_an_earlier_version_is_read() -> None:
    reading = {
        "tool_format": "hermes",
        "is_thinking_opened": True,
        "shows_reasoning": False,
        "ends": [1, 2],
        "must_call": True,
    }
    form = {"id": "chatcmpl-1", "model": "m", "created": 1, "n": 2, "include_usage": True, "logprobs": False}
    meta = ChatMeta.from_forms([form | {"reading": reading}])
    assert meta.reading == ParseOptions("hermes", True, False, (1, 2), True)
    assert json.loads(json.dumps(meta.forms())) == [form | {"reading": reading}], "and an earlier version reads ours"


@pytest.mark.parametrize(("timeout", "header", "expected"), [(3.0, "9", 3.0), (None, "9", 11.0), (None, "x", 0.0)])
def test_the_deadline_is_the_body_s_or_comes_after_the_sdk_s_own_timeout(timeout, header, expected):
    assert QueueOptions(timeout=timeout).deadline_s(header) == expected


@pytest.mark.parametrize(
    ("max_tokens", "counted"), [(100, 110), (89_000, 89_010), (89_990, 10 + 2048), (200_000, 10 + 2048)]
)
def test_an_answer_that_only_the_context_limits_counts_as_one_of_the_default_length(encoder, max_tokens, counted):
    request = GenerationRequest("chatcmpl-1", "tiny", (1,) * 10, SamplingParams(max_tokens=max_tokens, seed=1))
    card = replace(encoder.card, max_model_len=90_000)
    [submission] = submissions(
        Prepared(ResponseMeta("1", "tiny", 1), [request], QueueOptions()), "chat", card, Sender("o", {})
    )
    assert submission.cost == counted
