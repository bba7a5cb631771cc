"""What gunicorn's worker does with connections while it leaves."""

from typing import Any

import pytest
from gunicorn.workers.ggevent import GeventWorker

from api.server import OmniGeventWorker


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_connection_is_kept_only_by_a_process_that_stays(is_alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept open, its next request would be refused by a process that takes no more."""
    monkeypatch.setattr(GeventWorker, "handle_request", lambda *_: True)
    worker: Any = OmniGeventWorker.__new__(OmniGeventWorker)
    worker.alive = is_alive
    if is_alive:
        assert worker.handle_request(None, None, None, None)
    else:
        with pytest.raises(StopIteration):
            worker.handle_request(None, None, None, None)
