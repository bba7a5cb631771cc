"""HTTP to a vLLM server: what it serves, and one streamed answer per thread."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import orjson

from worker.remote.wire import BAD_ANSWER, BadAnswer, Ended, Lost, News, Refused, read_chunk, read_error

CONNECT_S = 5.0
STALL_S = 600.0  # without a token: it may have others to serve first, and long prompts to read
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a host that is gone is missed after 30 s


class Away(Exception):
    """The server cannot be used now; the message says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the server calls its model, and how long a sequence may become there."""

    model: str
    max_model_len: int | None


class VllmClient:
    """Where the server is and how it is spoken to."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        self._parts = urlsplit(self.url)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def served(self) -> Served:
        """Raises Away, also when only the server's door is alive and not its engine."""
        status, _ = self._get("/health")
        if status not in (200, 404):  # not every server has it
            raise Away(f"its /health says {status}")
        status, body = self._get("/v1/models")
        try:
            model = json.loads(body)["data"][0]
            return Served(str(model["id"]), model.get("max_model_len"))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise Away(f"its /v1/models says {status}: {body[:80]!r}") from None

    def connect(self) -> HTTPConnection:
        """A connection that is opened with its first request."""
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=CONNECT_S)

    def post(self, connection: HTTPConnection, body: dict[str, Any]) -> HTTPResponse:
        """Ask on a connection that is open."""
        connection.sock.settimeout(STALL_S)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in KEEPALIVE.items():
            if hasattr(socket, name):  # macOS names one of them otherwise
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
    """One question and the answer's chunks, told as they come. The last news is Ended, Lost or Refused."""

    def __init__(
        self,
        client: VllmClient,
        body: dict[str, Any],
        vocab_size: int,
        tell: Callable[["Stream", News], None],
    ) -> None:
        super().__init__(name="vllm-stream", daemon=True)
        self._client = client
        self._body = body
        self._vocab_size = vocab_size
        self._tell = tell
        self._connection = client.connect()
        self._is_closed = False

    def run(self) -> None:
        was_asked = False
        try:
            self._connection.connect()
            was_asked = True
            if self._is_closed:
                return
            for news in self._answer(self._client.post(self._connection, self._body)):
                self._tell(self, news)
        except BadAnswer as error:
            self._tell(self, Refused(BAD_ANSWER, f"The engine behind this service answers wrongly: {error}."))
        except (OSError, HTTPException) as error:
            self._tell(self, Lost(f"{type(error).__name__}: {error}", was_asked))
        finally:
            self._connection.close()

    def close(self) -> None:
        """Break off: the server sees the connection end and stops generating."""
        self._is_closed = True
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, response: HTTPResponse) -> Iterator[News]:
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
            news = read_chunk(data, self._vocab_size, self._body.get("logprobs"))
            if news is not None:
                yield news
            if isinstance(news, (Lost, Refused)):
                return
        yield Lost("the answer broke off")


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        return raw[:200].decode(errors="replace")
