"""Frames conform to the standard."""

from typing import Any

from openai._streaming import SSEDecoder

from api.jobs import sse
from api.jobs.dialects import OPENAI
from api.jobs.frames import Frames
from common.wire import Event


def test_a_frame_has_its_number_and_its_json_on_one_line() -> None:
    assert sse.frame({"text": "a\nb"}, 7) == b'id: 7\ndata: {"text":"a\\nb"}\n\n'
    assert sse.frame({}, event="ping") == b"event: ping\ndata: {}\n\n"


def test_half_a_surrogate_pair_that_a_model_wrote_does_not_end_a_stream() -> None:
    assert sse.frame({"name": "\ud83d"}) == b'data: {"name":"\\ud83d"}\n\n'


class NoChunks:
    def opening(self) -> list[dict[str, Any]]:
        return []

    def feed(self, event: Event) -> list[dict[str, Any]]:
        return []


def test_a_comment_never_breaks_out_of_its_line() -> None:
    assert sse.comment("queued\ndata: x") == b": queued data: x\n"


def test_a_comment_in_mid_stream_is_no_event_to_openais_decoder() -> None:
    stream = sse.frame({"a": 1}, 1) + sse.comment("queued position=1") + sse.frame({"a": 2}, 2) + sse.retry(1000)
    found = [event.data for event in SSEDecoder().iter_bytes(iter([stream]))]
    assert found == ['{"a":1}', '{"a":2}']


def test_a_comment_in_a_stream_without_ids_costs_a_client_that_splits_at_blank_lines_nothing() -> None:
    """Such a client drops each block that does not begin with `data: `."""
    frames = Frames(NoChunks(), OPENAI)
    stream = sse.frame({"a": 1}) + frames.notice("swapped out, model=b") + sse.frame({"a": 2})
    blocks = [block for block in stream.split(b"\n\n") if block.startswith(b"data: ")]
    assert blocks == [b'data: {"a":1}', b'data: {"a":2}']
    assert [event.data for event in SSEDecoder().iter_bytes(iter([stream]))] == ['{"a":1}', '{"a":2}']


def test_a_comment_in_a_stream_with_ids_is_part_of_the_next_block() -> None:
    frames = Frames(NoChunks(), OPENAI, with_ids=True)
    stream = sse.frame({"a": 1}, 1) + frames.notice("swapped out, model=b") + sse.frame({"a": 2}, 2)
    assert [event.data for event in SSEDecoder().iter_bytes(iter([stream]))] == ['{"a":1}', '{"a":2}']
