"""HTTP to a vLLM server: the model it serves, and one streamed answer per thread."""

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import orjson

from common.errors import BackendError
from worker.remote.wire import BadAnswer, Ended, Lost, Refused, StreamEvent, read_chunk, read_error

logger = logging.getLogger("omni.worker")

CONNECT_S = 5.0
STALL_S = 600.0  # longest wait for a token: other requests and long prompts may come first
KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))  # detects a dead host after 30 s


class Away(Exception):
    """The server cannot be used now; the message says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """The server's name for its model, and its longest sequence in tokens."""

    model: str
    max_model_len: int | None


class VllmClient:
    """The server's address and key, and requests to it."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        self._parts = urlsplit(self.url)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def served(self) -> Served:
        """The model being served. Raises Away, also when the HTTP server answers but its engine is dead."""
        status, _ = self._get("/health")
        if status not in (200, 404):  # not every server has /health
            raise Away(f"its /health answers {status}")
        status, body = self._get("/v1/models")
        try:
            model = json.loads(body)["data"][0]
            name, length = str(model["id"]), model.get("max_model_len")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise Away(f"its /v1/models answers {status}: {body[:80]!r}") from None
        if not isinstance(length, int | None):
            raise Away(f"the max_model_len of its /v1/models is no whole number: {str(length)[:80]!r}")
        return Served(name, length)

    def connect(self) -> HTTPConnection:
        """A connection, not opened yet."""
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=CONNECT_S)

    def post(self, connection: HTTPConnection, body: dict[str, Any]) -> HTTPResponse:
        """Request a completion on an open connection."""
        connection.sock.settimeout(STALL_S)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in KEEPALIVE:
            if hasattr(socket, name):  # macOS has another name for one of them
                connection.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        connection.request("POST", f"{self._parts.path}/v1/completions", orjson.dumps(body), self._headers)
        return connection.getresponse()

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request("GET", self._parts.path + path, headers=self._headers)
            response = connection.getresponse()
            return response.status, response.read(1 << 20)
        except (OSError, HTTPException) as error:
            raise Away(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()


class Stream(threading.Thread):
    """Requests one answer and passes its events on as they arrive. The last is Ended, Lost or Refused."""

    def __init__(
        self,
        client: VllmClient,
        body: dict[str, Any],
        vocab_size: int,
        on_event: Callable[["Stream", StreamEvent], None],
    ) -> None:
        super().__init__(name="vllm-stream", daemon=True)
        self._client = client
        self._body = body
        self._vocab_size = vocab_size
        self._on_event = on_event
        self._connection = client.connect()
        self._is_closed = False

    def run(self) -> None:
        was_asked = False
        try:
            self._connection.connect()
            was_asked = True
            if self._is_closed:
                return
            for event in self._answer(self._client.post(self._connection, self._body)):
                self._on_event(self, event)
        except BadAnswer as error:
            self._on_event(
                self, Refused(BackendError.code, f"The engine behind this service answers wrongly: {error}.")
            )
        except (OSError, HTTPException) as error:
            self._on_event(self, Lost(f"{type(error).__name__}: {error}", was_asked))
        except Exception:  # a thread that ends without its last event would leave its request waiting for ever
            logger.exception("a stream of the engine's server failed")
            self._on_event(self, Refused(BackendError.code, "An answer of the engine behind this service failed."))
        finally:
            self._connection.close()

    def close(self) -> None:
        """Close the connection, at which the server stops generating."""
        self._is_closed = True
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, response: HTTPResponse) -> Iterator[StreamEvent]:
        if response.status != 200:
            yield read_error(response.status, _json(response.read(1 << 20)))
            return
        while line := response.readline(1 << 24):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                yield Ended()
                return
            event = read_chunk(data, self._vocab_size, self._body.get("logprobs"))
            if event is not None:
                yield event
            if isinstance(event, (Lost, Refused)):
                return
        yield Lost("the answer broke off")


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        return raw[:200].decode(errors="replace")
