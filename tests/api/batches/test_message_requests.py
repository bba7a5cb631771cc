"""A body of requests is split while it arrives: the same lines however it is cut, in little memory and time."""

import json
import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.batches import message_requests
from api.batches.json_split import Splitter
from api.batches.message_requests import MessageRequests
from common.errors import BodyTooLarge, InvalidRequest

ONE = {
    "custom_id": "a-1",
    "params": {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda child: st.lists(child, max_size=4) | st.dictionaries(st.text(max_size=10), child, max_size=4),
    max_leaves=12,
)


def lines_of(body, size=2**18):
    requests = MessageRequests()
    lines = b"".join(requests.feed(body[at : at + size]) for at in range(0, len(body), size))
    requests.end()
    return [json.loads(line) for line in lines.splitlines()]


def line_of(request):
    return {"custom_id": request["custom_id"], "method": "POST", "url": "/v1/messages", "body": request["params"]}


@pytest.mark.parametrize("size", [1, 2, 3, 10, 2**18])
@pytest.mark.parametrize("indent", [None, 1, "\t"])
def test_each_request_becomes_a_line_of_the_batch(size, indent):
    sent = [ONE, {"params": {"model": "m", "a": '"}]\\', "b": [{}, [], {"c": "\\\\"}], "d": -1.5e3}, "custom_id": "b"}]
    body = json.dumps({"betas": ["x", {"y": 1}], "requests": sent, "z": None}, indent=indent).encode()
    mark = b"\xef\xbb\xbf" * (size > 2)
    assert lines_of(mark + b" \r\n" + body + b"\r\n ", size) == [line_of(request) for request in sent]


@settings(max_examples=60)
@given(st.lists(st.dictionaries(st.text(max_size=10), JSON, max_size=5), min_size=1, max_size=5), st.integers(1, 200))
def test_any_params_come_through_as_they_were(params, size):
    sent = [{"custom_id": f"r{at}", "params": {**one, "stream": False, "model": "m"}} for at, one in enumerate(params)]
    body = json.dumps({"requests": sent}, indent=1).encode()
    assert lines_of(body, size) == [line_of(request) for request in sent]


def test_numbers_and_breaks_between_values_are_kept_as_they_were_sent():
    body = b'{"requests":[{"custom_id":"a","params":\n{"model":"m","seed":\r\n18446744073709551617,"t":"\\n"}}]}'
    requests = MessageRequests()
    line = requests.feed(body)
    head = b'{"custom_id":"a","method":"POST","url":"/v1/messages","body":'
    assert line == head + b'{"model":"m","seed":  18446744073709551617,"t":"\\n"}}\n'


@pytest.mark.parametrize(
    ("body", "param", "why"),
    [
        ("", None, "ends too early"),
        ("{", None, "ends too early"),
        ('{"requests":[]', None, "ends too early"),
        ('{"requests":[{"custom_id":"a","params":{"a":"', None, "ends too early"),
        ("[]", None, "'{' is expected"),
        ("{}", "requests", "at least one"),
        ('{"requests":[]}', "requests", "at least one"),
        ('{"requests":{}}', "requests", "must be a list"),
        ('{"requests":"x"}', "requests", "must be a list"),
        ('{"requests":[1]}', "requests[0]", "must be an object"),
        ('{"requests":[{}]}', None, "a field's name is expected"),
        ('{"requests":[OK,{"custom_id":"b"}]}', "requests[1].params", "must be a JSON object"),
        ('{"requests":[OK,{"params":{}}]}', "requests[1].custom_id", "must match"),
        ('{"requests":[{"custom_id":7,"params":{}}]}', "requests[0].custom_id", "must match"),
        ('{"requests":[{"custom_id":"","params":{}}]}', "requests[0].custom_id", "must match"),
        ('{"requests":[{"custom_id":"a b","params":{}}]}', "requests[0].custom_id", "must match"),
        ('{"requests":[{"custom_id":"a\\n","params":{}}]}', "requests[0].custom_id", "must match"),
        ('{"requests":[{"custom_id":"%s","params":{}}]}' % ("a" * 65), "requests[0].custom_id", "must match"),
        ('{"requests":[OK,OK]}', "requests[1].custom_id", "another request's too"),
        ('{"requests":[{"custom_id":"a","params":{"stream":true}}]}', "requests[0].params.stream", "must not be true"),
        ('{"requests":[{"custom_id":"a","params":{"a":1,"a":2}}]}', "requests[0].params", "stands twice"),
        ('{"requests":[{"custom_id":"a","params":{"a":NaN}}]}', "requests[0].params", "not valid JSON"),
        ('{"requests":[{"custom_id":"a","params":{"a":[}]}}]}', "requests[0].params", "not valid JSON"),
        ('{"requests":[{"custom_id":"a","custom_id":"b","params":{}}]}', "requests[0].custom_id", "stands twice"),
        ('{"requests":[{"custom_id":"a","params":{},"x":1}]}', "requests[0].x", "is not a field"),
        ('{"requests":[{"custom_id":"a","params":{"model":""}}]}', "requests[0].params.model", "the id of a model"),
        ('{"requests":[OK],"requests":[]}', "requests", "stands twice"),
        ('{"requests":[OK]} x', None, "after its end"),
        ('{"requests":[OK,]}', "requests[1]", "must be an object"),
        ('{"requests":[OK OK]}', None, "is expected"),
        ('{"requests":[OK],}', None, "name is expected"),
        ('{"requests" [OK]}', None, "is expected"),
        ('{requests:[OK]}', None, "name is expected"),
        ('{"a":,"requests":[OK]}', None, "begins no value"),
        ('{"\\x":1}', None, "not valid JSON"),
    ],
    ids=range(35),
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 2**18])
def test_a_wrong_body_is_refused_with_the_place_of_its_fault(body, param, why, size):
    with pytest.raises(InvalidRequest, match=why) as refused:
        lines_of(body.replace("OK", json.dumps(ONE)).encode(), size)
    assert refused.value.param == param


def test_a_batch_has_fifty_thousand_requests_at_most(monkeypatch):
    assert message_requests.MAX_REQUESTS == 50_000
    monkeypatch.setattr(message_requests, "MAX_REQUESTS", 2)
    body = {"requests": [{"custom_id": str(number), "params": {"model": "m"}} for number in range(3)]}
    with pytest.raises(InvalidRequest, match="may have 2 requests"):
        lines_of(json.dumps(body).encode())


def test_random_bytes_are_never_an_internal_error():
    chance = random.Random(19)
    pieces = [
        b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"requests", b'"requests":[', b'{"custom_id":"a",',
        b'"params":', b"{}", b" ", b"\n", b"1", b"null", b"\xff", b"\x00", b"\xef\xbb\xbf",
    ]  # fmt: skip
    for _ in range(3000):
        body = b'{"requests":[' * chance.randint(0, 1) + b"".join(chance.choices(pieces, k=chance.randint(1, 20)))
        try:
            lines_of(body, chance.choice([1, 5, 100]))
        except InvalidRequest:
            pass


@pytest.mark.parametrize(
    "fill",
    [b'"a\\n\\"bc",', b"[[]],", b"1,", b'"' + b"x" * 1000 + b'",', b" ", b"{},"],
    ids=["escapes", "lists", "numbers", "texts", "blanks", "objects"],
)
def test_a_large_value_is_read_in_linear_time_and_one_that_is_too_large_is_refused(fill):
    """Escapes and short values have the most marks per byte."""
    splitter, block = Splitter(8 * 2**20), (fill * 65536)[: 65536 // len(fill) * len(fill)]
    splitter.add(b'{"a":[')
    steps = splitter.value()
    next(steps)
    began = time.process_time()
    for _ in range(40):
        splitter.add(block)
        next(steps)
    assert time.process_time() - began < 5
    with pytest.raises(BodyTooLarge, match="One value"):
        for _ in range(200):
            splitter.add(block)
            next(steps)


def test_of_many_requests_only_one_and_a_block_are_in_memory():
    text = "abc\\n" * 5000
    requests = MessageRequests()
    requests.feed(b'{"requests":[')
    tracemalloc.start()
    for number in range(500):
        lines = requests.feed(b'{"custom_id":"r%d","params":{"model":"m","messages":"%b"}},' % (number, text.encode()))
        assert len(lines) > 20_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20  # of 10 MB


def test_a_long_text_of_escapes_takes_no_memory_beside_itself():
    splitter = Splitter(8 * 2**20)
    steps = splitter.value()
    splitter.add(b'"')
    next(steps)
    tracemalloc.start()
    splitter.add(b"\\n" * (3 * 2**20))
    next(steps)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 * 2**20
