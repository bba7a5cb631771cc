"""Frames as the standard writes them."""

from api import sse


def test_a_frame_has_its_number_and_one_line_of_json() -> None:
    assert sse.frame({"text": "a\nb"}, 7) == b'id: 7\ndata: {"text":"a\\nb"}\n\n'
    assert sse.frame({}, event="ping") == b"event: ping\ndata: {}\n\n"


def test_a_comment_never_breaks_out_of_its_line() -> None:
    assert sse.comment("queued\ndata: x") == b": queued data: x\n\n"
