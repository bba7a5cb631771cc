"""Every message is decoded to what was encoded; other bytes are refused."""

import subprocess
import sys
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import WireError
from common.wire import Delta, Failed, Finished, GenerationRequest, ModelCard, SamplingParams, TokenLogprob
from common.wire_codec import (
    decode_card,
    decode_event,
    decode_failed,
    decode_request,
    encode_card,
    encode_event,
    encode_request,
)

tokens = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
logprobs = st.lists(
    st.builds(TokenLogprob, st.integers(0, 9), st.floats(-50, 0), st.just(((1, -0.5),))), max_size=2
).map(tuple)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
events = st.one_of(
    st.builds(Delta, st.integers(0, 15), tokens, texts, logprobs, st.sampled_from([None, "stop", "length"])),
    st.builds(Finished, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    st.builds(Failed, texts, texts),
)


@given(events)
def test_an_event_survives_the_wire(event: Delta | Finished | Failed) -> None:
    assert decode_event(orjson.loads(encode_event(event))) == event


def test_a_request_survives_the_wire() -> None:
    sampling = SamplingParams(5, 2**62, stop=("a",), stop_token_ids=(3,), logit_bias=((1, -2.5),), grammar="{}", n=2)
    request = GenerationRequest("chatcmpl-1", "m", (1, 2, 3), sampling, "salt", ("data:image/png;base64,",))
    assert decode_request(encode_request(request)) == request
    newest = replace(request, is_flex=True, keep_alive_s=-1.0)
    assert decode_request(encode_request(newest)) == newest
    assert not {"is_flex", "keep_alive_s"} & orjson.loads(encode_request(request)).keys()


def test_a_card_survives_the_wire() -> None:
    card = ModelCard("q", ("a", "b"), "root", "rev", "llama", 2048, 1500, 1, "{}", None, {"eos_token": "x"}, (1, 2))
    assert decode_card(encode_card(card)) == card


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"sampling": 1}', b"\x80\x04K."])
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        decode_request(raw)
    with pytest.raises(WireError):
        decode_card(raw)


@pytest.mark.parametrize("row", [{}, {"i": 0}, {"end": {"tokens": 1}}, {"fail": {}}])
def test_other_rows_are_refused(row: dict[str, object]) -> None:
    with pytest.raises(WireError):
        decode_event(row)


def changed(raw: bytes, **fields: object) -> bytes:
    return orjson.dumps(orjson.loads(raw) | fields)


REQUEST = encode_request(GenerationRequest("chatcmpl-1", "m", (1, 2), SamplingParams(5, 7)))
CARD = encode_card(ModelCard("q", ("a",), "root", "rev", "llama", 2048, 1500, 1, "{}", None))


def test_a_request_with_an_unknown_field_is_refused_because_it_may_change_the_answer() -> None:
    sampling = orjson.loads(REQUEST)["sampling"]
    for raw in (changed(REQUEST, new=1), changed(REQUEST, sampling=sampling | {"top_a": 0.5})):
        with pytest.raises(WireError):
            decode_request(raw)


def test_a_request_of_an_older_peer_gets_the_defaults() -> None:
    older = {name: value for name, value in orjson.loads(REQUEST).items() if name not in ("images", "input_lengths")}
    assert decode_request(orjson.dumps(older)) == decode_request(REQUEST)


def test_unknown_fields_of_cards_and_events_are_ignored() -> None:
    assert decode_card(changed(CARD, new={"a": 1})) == decode_card(CARD)
    assert decode_event({"i": 0, "t": [1], "x": "a", "new": 1}) == Delta(0, (1,), "a")
    assert decode_event({"end": {"prompt_tokens": 1, "completion_tokens": 2, "new": 3}}) == Finished(1, 2)
    assert decode_event({"fail": {"code": "timeout", "message": "late", "new": 3}}) == Failed("timeout", "late")


@pytest.mark.parametrize("change", [{"prompt_ids": ["1"]}, {"model": 1}, {"prompt_ids": None}])
def test_a_value_of_another_type_is_refused_and_not_shown(change: dict[str, object]) -> None:
    with pytest.raises(WireError) as refused:
        decode_request(changed(REQUEST, **change, cache_salt="secret"))
    assert "secret" not in str(refused.value) and next(iter(change)) in str(refused.value)


def test_the_reason_of_a_cancelled_job_is_a_failed_event() -> None:
    assert decode_failed(b'{"message":"late","code":"timeout"}') == Failed("timeout", "late")


def test_the_messages_need_no_library() -> None:
    code = "import sys, common.wire; assert not {'pydantic', 'orjson', 'redis'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
