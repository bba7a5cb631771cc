"""Bytes to a typed request: faults are refused by name, and no bytes cause an internal error."""

import io
import json
import time

import gevent
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.app import create_app
from api.gate.body import MAX_BODY_BYTES, in_turns
from api.gate.json_object import MAX_DEPTH, parse_object
from api.schema.chat import ChatRequest
from api.schema.messages import MessagesRequest
from api.schema.parse import parse
from api.schema.responses import ResponsesRequest
from bench.hostile import FIELDS, RAW, Hostile, gate, in_process
from common.errors import InvalidRequest, OmniError
from common.grammar.answer import json_value
from common.json_bounds import MAX_FIELDS, MAX_VALUES
from common.settings import read_settings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda child: st.lists(child, max_size=4) | st.dictionaries(st.text(max_size=10), child, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("raw", [raw for raw in RAW if raw not in (b'{"":""}', b'{"n":-0}')], ids=lambda raw: raw[:20])
def test_a_body_that_is_not_one_strict_json_object_is_refused(raw):
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


def test_a_repeated_name_is_reported():
    with pytest.raises(InvalidRequest) as refused:
        parse_object(b'{"temperature":0,"messages":[{"role":"user","role":"system"}]}')
    assert refused.value.param == "role"


@pytest.mark.parametrize("number", [2, 60_000])
def test_a_repeated_name_among_many_is_found_quickly(number):
    names = b",".join(b'"k%d":1' % place for place in range(number))
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=f"'k{number - 1}' stands twice"):
        parse_object(b'{%s,"k%d":2}' % (names, number - 1))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b'{"a":[%s0]}' % (b"0," * MAX_VALUES), "values"),
        (b'{"a":[%s0]}' % (b'"",' * MAX_VALUES), "values"),
        (b'{"a":[%s0]}' % (b'"",' * 2 * MAX_VALUES), "texts"),
        (b'{"a":[%s0]}' % (b"{}," * MAX_FIELDS), "named fields, objects and lists"),
        (b'{"a":[%s0]}' % (b"[]," * MAX_FIELDS), "named fields, objects and lists"),
        (b'{"a":[%s0]}' % (b"[1]," * 195_000), "named fields, objects and lists"),
        (b'{"a":[%s0]}' % ((b"[" * 60 + b"]" * 60 + b",") * 1100), "named fields, objects and lists"),
        (b"{%s}" % b",".join(b'"%d":0' % name for name in range(MAX_FIELDS)), "named fields, objects and lists"),
    ],
)
def test_too_many_values_are_refused_before_they_are_parsed(monkeypatch, raw, what):
    monkeypatch.setattr("api.gate.json_object.orjson.loads", None)
    with pytest.raises(InvalidRequest, match=rf"The body has \d+ {what}; a request may have \d+\."):
        parse_object(raw)


def test_a_schema_that_comes_as_text_is_bounded_like_a_body(monkeypatch):
    monkeypatch.setattr("common.grammar.answer.orjson.loads", None)
    with pytest.raises(InvalidRequest, match="named fields, objects and lists"):
        json_value("[%s1]" % ("[]," * MAX_FIELDS), "guided_json")


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": [50_000] * 131_072},
        {"prompt": [[50_000] * 4096] * 64},
        {"content": 'a,b:{["\\\\' * 200_000},
        {"content": "\\" * 200_000 + '"'},
        {"url": "data:image/png;base64," + "QUJD" * 2_000_000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}] * 4096},
        {"input": [[7] * 190] * 2048},
        {"logit_bias": {str(token): 1 for token in range(1024)}, "stop": ["a"] * 64},
    ],
    ids=[
        "128K token ids",
        "64 prompts of ids",
        "marks in a text",
        "backslashes",
        "8 MB image",
        "4,096 messages",
        "2,048 inputs of ids",
        "1,024 biases",
    ],
)
def test_large_valid_requests_are_accepted(value):
    assert parse_object(json.dumps(value).encode()) == value


def test_other_greenlets_run_while_a_body_is_read():
    """Each piece takes time; a greenlet that is ready in between does not wait for the end."""
    pieces, turns = iter([b"a"] * 20 + [b""]), []

    def read(size):
        time.sleep(0.003)
        return next(pieces)

    other = gevent.spawn(lambda: [turns.append(gevent.sleep(0.001)) for _ in range(100)])
    assert b"".join(in_turns(read, 1)) == b"a" * 20
    other.kill()
    assert len(turns) > 5


def test_whole_numbers_are_kept_to_the_last_digit():
    assert parse_object(b'{"a":[18446744073709551616,-9999999999999999999,1.0000000000000000000001]}') == {
        "a": [2**64, -9999999999999999999, 1.0]
    }


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", '"', "\\", "a:"]), JSON), max_size=5))
def test_a_repeated_name_is_found_wherever_it_stands(pairs):
    try:
        raw = b'{"x":[{%s}]}' % b",".join(orjson.dumps(name) + b":" + orjson.dumps(value) for name, value in pairs)
    except TypeError:
        return
    if len({name for name, _ in pairs}) == len(pairs):
        assert parse_object(raw)
    else:
        with pytest.raises(InvalidRequest, match="stands twice"):
            parse_object(raw)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_bytes_cause_an_internal_error(raw):
    try:
        assert isinstance(parse_object(raw), dict)
    except InvalidRequest:
        pass


@settings(max_examples=200)
@given(st.dictionaries(st.text(max_size=10), JSON, max_size=5))
def test_an_accepted_body_equals_the_one_sent(value):
    try:
        raw = orjson.dumps(value)
    except TypeError:  # a whole number of more than 64 bits, or a lone surrogate
        return
    assert json.dumps(parse_object(raw)) == json.dumps(json.loads(raw))


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
@pytest.mark.parametrize("model", [ChatRequest, ResponsesRequest, MessagesRequest])
def test_no_value_of_any_field_causes_an_internal_error(model, fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "input": "x", "max_tokens": 3}
    try:
        parse(model, body | fields)
    except OmniError as error:
        assert isinstance(error, InvalidRequest)


def test_two_thousand_hostile_requests_are_refused_or_accepted():
    supply = Hostile(seed=20)
    outcomes = in_process((supply.body() for _ in range(2000)), gate())
    assert outcomes.total() == 2000
    assert outcomes["invalid_request"] > 1000 and outcomes["accepted"] > 50
    assert set(outcomes) <= {"accepted", "invalid_request", "context_length_exceeded"}


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("num_bytes", "status"), [(MAX_BODY_BYTES, 400), (MAX_BODY_BYTES + 1, 413)])
def test_a_body_may_be_as_large_as_the_limit(is_chunked, num_bytes, status):
    raw = b"{}".ljust(num_bytes)  # without a model: a 400, once it was read
    client = create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock"})).test_client()
    sent = {"input_stream": io.BytesIO(raw)} if is_chunked else {"data": raw}
    answer = client.post(
        "/v1/chat/completions",
        content_type="application/json",
        headers={"Authorization": "Bearer sk-local"},
        environ_overrides={"wsgi.input_terminated": True},
        **sent,
    )
    assert answer.status_code == status
