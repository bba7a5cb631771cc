"""A receiver of webhooks: a real HTTP server in a thread, which answers as the test tells it."""

import queue
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What to answer: a status, nothing, a closed connection, a byte a time, a whole head and then a byte a time.
OK, HANG, CLOSE, DRIP, DRIP_BODY = 200, 0, -1, -2, -3


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """`answers` maps a path to what is answered there; `received` has every request in order."""

    def __init__(self) -> None:
        self.received: queue.Queue[Received] = queue.Queue()
        self.all: list[Received] = []
        self.answers: dict[str, int] = {}
        self.extra: dict[str, str] = {}
        self.release = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def ids(self) -> "Counter[str]":
        return Counter(request.event_id for request in list(self.all))

    def next(self, timeout: float = 10) -> Received:
        return self.received.get(timeout=timeout)

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Received(self.path, headers, body)
                receiver.all.append(got)
                receiver.received.put(got)
                receiver._answer(self, receiver.answers.get(self.path, OK))

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, handler: Any, answer: int) -> None:
        if answer == HANG:
            self.release.wait(30)
        elif answer in (DRIP, DRIP_BODY):
            if answer == DRIP_BODY:
                handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 600:
                if self.release.wait(0.05):
                    return
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
        elif answer != CLOSE:
            handler.send_response(answer)
            for name, value in self.extra.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(b"x" * 100_000)
