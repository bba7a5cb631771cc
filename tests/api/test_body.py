"""Bytes to a typed request: what is refused, by name; and that no bytes at all are ever our fault."""

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.body import MAX_DEPTH, parse_object
from api.messages_schema import MessagesRequest
from api.responses_schema import ResponsesRequest
from api.schema import ChatRequest, parse
from bench.hostile import FIELDS, RAW, Hostile, gate, in_process
from common.errors import InvalidRequest, OmniError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda child: st.lists(child, max_size=4) | st.dictionaries(st.text(max_size=10), child, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("raw", [raw for raw in RAW if raw not in (b'{"":""}', b'{"n":-0}')], ids=lambda raw: raw[:20])
def test_what_is_not_one_strict_json_object_is_refused(raw):
    if raw.startswith(b'{"messages":[{}'):
        assert parse_object(raw)
        return
    with pytest.raises(InvalidRequest):
        parse_object(raw)


def test_nesting_ends_at_its_limit():
    def nested(depth):
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert parse_object(nested(MAX_DEPTH))
    with pytest.raises(InvalidRequest, match="nested deeper"):
        parse_object(nested(MAX_DEPTH + 1))


def test_a_name_that_stands_twice_is_named():
    with pytest.raises(InvalidRequest) as refused:
        parse_object(b'{"temperature":0,"messages":[{"role":"user","role":"system"}]}')
    assert refused.value.param == "role"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_our_fault(raw):
    try:
        assert isinstance(parse_object(raw), dict)
    except InvalidRequest:
        pass


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=10), JSON, max_size=5))
def test_what_is_accepted_is_what_was_sent(value):
    try:
        raw = orjson.dumps(value)
    except TypeError:  # a whole number of more than 64 bits, or a lone surrogate
        return
    assert json.dumps(parse_object(raw)) == json.dumps(json.loads(raw))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
@pytest.mark.parametrize("model", [ChatRequest, ResponsesRequest, MessagesRequest])
def test_no_value_of_any_field_is_our_fault(model, fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "input": "x", "max_tokens": 3}
    try:
        parse(model, body | fields)
    except OmniError as error:
        assert isinstance(error, InvalidRequest)


def test_two_thousand_hostile_requests_are_refused_or_taken():
    supply = Hostile(seed=20)
    outcomes = in_process((supply.body() for _ in range(2000)), gate())
    assert outcomes.total() == 2000
    assert outcomes["invalid_request"] > 1000 and outcomes["accepted"] > 50
    assert set(outcomes) <= {"accepted", "invalid_request", "context_length_exceeded"}
