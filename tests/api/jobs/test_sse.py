"""Frames conform to the standard."""

from openai._streaming import SSEDecoder

from api.jobs import sse


def test_a_frame_has_its_number_and_its_json_on_one_line() -> None:
    assert sse.frame({"text": "a\nb"}, 7) == b'id: 7\ndata: {"text":"a\\nb"}\n\n'
    assert sse.frame({}, event="ping") == b"event: ping\ndata: {}\n\n"


def test_half_a_surrogate_pair_that_a_model_wrote_does_not_end_a_stream() -> None:
    assert sse.frame({"name": "\ud83d"}) == b'data: {"name":"\\ud83d"}\n\n'


def test_a_comment_never_breaks_out_of_its_line() -> None:
    assert sse.comment("queued\ndata: x") == b": queued data: x\n"


def test_a_comment_in_mid_stream_is_no_event_to_openais_decoder() -> None:
    stream = sse.frame({"a": 1}, 1) + sse.comment("queued position=1") + sse.frame({"a": 2}, 2) + sse.retry(1000)
    found = [event.data for event in SSEDecoder().iter_bytes(iter([stream]))]
    assert found == ['{"a":1}', '{"a":2}']
