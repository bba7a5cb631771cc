"""The operator's live board: one snapshot a second for all viewers of this process, as SSE."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, request
from gevent.event import Event as Wake
from gevent.lock import BoundedSemaphore
from redis.exceptions import RedisError

from api.gate.client_watch import watching
from api.gate.gunicorn_seams import client_socket
from api.jobs import sse
from api.jobs.dialects import OPENAI
from api.jobs.frames import RESUME_MS
from api.jobs.service import Service
from api.operator.snapshot import take_snapshot
from api.operator.stored_work import StoredWork

logger = logging.getLogger("omni.api")

PERIOD_S = 1.0


class Board:
    """The newest snapshot. A new one is taken only when a viewer asks and the last one is a second old."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stored = StoredWork(service)
        self._frame = b""
        self._taken = 0.0
        self._is_free = BoundedSemaphore(1)

    def frame(self) -> bytes:
        """Raises RedisError."""
        with self._is_free:
            if time.monotonic() - self._taken >= PERIOD_S:
                snapshot = take_snapshot(self._service.store, self._service.models.expected.values())
                snapshot = self._with_names(snapshot) | self._stored.newest()
                self._frame, self._taken = sse.frame(snapshot), time.monotonic()
            return self._frame

    def _with_names(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """The snapshot with names of keys in place of their hashes, where a key has a name."""
        for job in (*snapshot["waiting"], *snapshot["running"], *snapshot["scheduled"], *snapshot["failed"]):
            job["owner"] = self._service.keys.name_of(job["owner"])
        return snapshot


def board_routes(service: Service) -> Blueprint:
    routes = Blueprint("board", __name__)
    board = Board(service)

    @routes.get("/admin/board")
    def show() -> Response:
        service.keys.admin(request)
        return Response(frames(service, board, client_socket(request.environ)), headers=OPENAI.headers)

    return routes


def frames(service: Service, board: Board, client: Any) -> Iterator[bytes]:
    """SSE frames until the viewer disconnects or this process shuts down."""
    gone = Wake()
    with watching(client, gone.set, lambda: None):  # the frame every PERIOD_S is the probe
        while not gone.is_set():
            try:
                yield board.frame()
            except RedisError as error:
                yield sse.comment(f"Redis does not answer: {type(error).__name__}")
            gone.wait(PERIOD_S)
            if service.hub.is_closing:
                yield sse.retry(RESUME_MS)
                return
