"""Overrides of gunicorn, and uses of it beyond its documented API. Re-check them when gunicorn is upgraded.

- `GeventWorker.init_process`: quiet imports, one accept a turn. Check: the order.
- `GeventWorker.load_wsgi`: the connection limit. Check: `wsgi` is the application then.
- `GeventWorker.handle`: counts connections per network before a byte is read. Check: it runs once a connection.
- `GeventWorker.handle_request`: drops clients that stopped reading; a leaving process ends its connections.
  Check: what it returns, and `alive`.
- `GeventWorker.handle_error`: bytes that are not HTTP get a JSON error, not gunicorn's HTML page. Check: which errors.
- `GeventWorker.handle_exit`: streams end before gunicorn kills the process. Check: the seconds at STOP_ACCEPTING_S.
- `StreamServer.max_accept` of gevent: shares connections between processes. gunicorn has no option for it.
- `util.write_nonblock`, `util.close_graceful`: an answer on a connection that has no request.
- `environ["gunicorn.socket"]`: to watch the client's end of the connection. Check: it is gevent's socket.
- `wsgi.input.failed`: gunicorn closes a connection whose body was not read to its end.
- `Logger.setup`: gunicorn's log lines take the format of all others. Check: `error_log`.

tests/test_seams.py touches each entry; tests/e2e/test_half_closed.py the socket in `environ`.
"""

import errno
import logging
import warnings
from typing import Any

import gevent
import orjson
from gevent.monkey import MonkeyPatchWarning
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException, UnsupportedTransferCoding
from gunicorn.workers.ggevent import GeventWorker

from api.gate.connections import Connections, network_of
from api.gate.errors import error_body
from common.errors import InvalidRequest, UnsupportedCoding

logger = logging.getLogger("omni.api")

STOP_ACCEPTING_S = 1.1  # gunicorn checks once a second whether it should stop accepting
WHOLE_ANSWERS_S = 2.2  # answers that are not streamed may still become ready until then
GRACE_S = 3  # then gunicorn kills the process
LINGER_S = 0.2  # so that a refused client can read why


MalformedBody = ParseException  # raised while a body with chunks is read


class OmniGeventWorker(GeventWorker):  # type: ignore[misc]
    """Limits connections per network. On SIGTERM it ends open streams in a way that clients can detect."""

    connections: Connections

    def init_process(self) -> None:
        warnings.simplefilter("ignore", MonkeyPatchWarning)  # no module imported before the patch waits for anything
        StreamServer.max_accept = 1
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        service = self.wsgi.extensions.get("omni")  # the dashboard has none
        limit = service.settings.server.max_connections_per_address if service is not None else 0
        self.connections = Connections(limit)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        network = network_of(addr)
        if not self.connections.enter(network):
            refuse_connection(client, self.connections.limit)
            return
        try:
            super().handle(listener, client, addr)
        finally:
            self.connections.leave(network)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """A client that stopped reading is dropped with one log line, where gunicorn would log a server error."""
        req.body.message = req  # for close_after
        try:
            handled = super().handle_request(listener_name, req, sock, addr)
        except TimeoutError as error:
            self.log.warning("a client of %s stopped reading and is dropped", req.path)
            raise ConnectionResetError(errno.ECONNRESET, "dropped") from error
        if not self.alive:
            raise StopIteration  # closes the connection: its next request is for a process that stays
        return handled

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer bytes that are not HTTP with OpenAI's error object."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("not HTTP: %s", exc)
        write(client, malformed(exc))

    def handle_exit(self, sig: int, frame: Any) -> None:
        app = getattr(self, "wsgi", None)  # missing while the application loads
        if app is not None and "omni" in app.extensions:
            hub = app.extensions["omni"].hub
            gevent.spawn_later(STOP_ACCEPTING_S, hub.end_streams)
            gevent.spawn_later(WHOLE_ANSWERS_S, hub.stop)
        super().handle_exit(sig, frame)


class OmniLogger(GunicornLogger):  # type: ignore[misc]
    """gunicorn's log lines go through the root logger, so that they have the format of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def malformed(error: ParseException) -> bytes:
    """The whole answer to bytes that gunicorn could not parse as a request."""
    code = InvalidRequest.code
    if isinstance(error, UnsupportedTransferCoding):
        status, code = "501 Not Implemented", UnsupportedCoding.code
    elif isinstance(error, LimitRequestLine):
        status = "414 URI Too Long"
    elif isinstance(error, LimitRequestHeaders):
        status = "431 Request Header Fields Too Large"
    else:
        status = "400 Bad Request"
    return closing_answer(status, error_body(code, f"{status[4:]}: {error}"))


def refuse_connection(client: Any, limit: int) -> None:
    """Answer 429 before a byte is read, and close the connection."""
    message = (
        f"This address has {limit} connections open, which is the most this server takes: close some, or reuse them."
    )
    write(client, closing_answer("429 Too Many Requests", error_body("rate_limit_exceeded", message), "Retry-After: 1"))
    util.close_graceful(client, LINGER_S)


def closing_answer(status: str, body: dict[str, Any], *headers: str) -> bytes:
    raw = orjson.dumps(body)
    head = (
        f"HTTP/1.1 {status}",
        "Connection: close",
        *headers,
        "Content-Type: application/json",
        f"Content-Length: {len(raw)}",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + raw


def write(client: Any, data: bytes) -> None:
    """Write as much as the kernel's buffer takes, without waiting."""
    try:
        util.write_nonblock(client, data)
    except OSError:
        logger.debug("a refused client has closed its connection")


def client_socket(environ: dict[str, Any]) -> Any:
    """The client's socket of the request; None when another server than gunicorn runs the application."""
    return environ.get("gunicorn.socket")


def is_gunicorns(body: Any) -> bool:
    """True for a `wsgi.input` of gunicorn's."""
    return hasattr(body, "failed")


def close_after(body: Any) -> None:
    """Have gunicorn close the connection, and say so, because it is unknown where the next request would begin."""
    body.failed = True
    body.message.force_close()
