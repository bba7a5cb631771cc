"""Connections of a gunicorn worker that is shutting down."""

from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.http.errors import InvalidHeader, ParseException, UnsupportedTransferCoding
from gunicorn.workers.ggevent import GeventWorker

from api.gate.gunicorn_seams import OmniGeventWorker, malformed


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_connection_is_kept_only_by_a_process_that_stays(is_alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is leaving would refuse the next request of a connection that it kept open."""
    monkeypatch.setattr(GeventWorker, "handle_request", lambda *_: True)
    worker: Any = OmniGeventWorker.__new__(OmniGeventWorker)
    worker.alive = is_alive
    request = SimpleNamespace(body=SimpleNamespace())
    if is_alive:
        assert worker.handle_request(None, request, None, None)
    else:
        with pytest.raises(StopIteration):
            worker.handle_request(None, request, None, None)


@pytest.mark.parametrize(
    ("error", "status"),
    [(UnsupportedTransferCoding("br, chunked"), b"501"), (InvalidHeader("TRANSFER-ENCODING"), b"400")],
)
def test_a_coding_that_is_not_known_is_a_501_and_a_body_without_an_end_a_400(
    error: ParseException, status: bytes
) -> None:
    assert malformed(error).split()[1] == status
