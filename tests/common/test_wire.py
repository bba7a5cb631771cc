"""What is written is read back the same; what is not ours is refused."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import WireError
from common.wire import (
    Delta,
    Failed,
    Finished,
    GenerationRequest,
    ModelCard,
    SamplingParams,
    TokenLogprob,
    decode_card,
    decode_event,
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
