"""gunicorn with gevent workers, configured from our settings alone.

`python -m api.server` is the API, `python -m api.server dashboard` is rq-dashboard on loopback. Under
`common.process.supervise --listen` the port is the supervisor's (--listen-fd), and this is one of the processes that
share it.
"""

import argparse
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
import orjson
from gevent.monkey import MonkeyPatchWarning
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.ggevent import GeventWorker

from api.gate import quick_poll
from api.gate.connections import Connections, network_of, refuse
from api.gate.errors import error_body
from common.logs import set_up_logging

if TYPE_CHECKING:
    from common.settings import Settings  # 13 MB with all that it needs, which gunicorn's arbiter does without

logger = logging.getLogger("omni.api")

TOO_LONG = {LimitRequestLine: "414 URI Too Long", LimitRequestHeaders: "431 Request Header Fields Too Large"}
STOP_ACCEPTING_S = 1.1  # gunicorn looks once a second whether it should stop to accept
WHOLE_ANSWERS_S = 2.2  # so long answers that are not streamed may still become ready
GRACE_S = 3  # then gunicorn kills


class OmniGeventWorker(GeventWorker):  # type: ignore[misc]
    """Shares connections out between addresses. Asked to leave, it takes no more, then ends what is open so that no
    client takes a part for the whole.
    """

    connections = Connections(0)

    def patch(self) -> None:
        super().patch()
        quick_poll.install()

    def init_process(self) -> None:
        warnings.simplefilter("ignore", MonkeyPatchWarning)  # what was imported before waits for nothing
        StreamServer.max_accept = 1  # several processes accept from one socket: this shares the callers out
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        if (service := self.wsgi.extensions.get("omni")) is not None:
            self.connections = Connections(service.settings.max_connections_per_address)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        network = network_of(addr)
        if not self.connections.enter(network):
            refuse(client, self.connections.limit)
            return
        try:
            super().handle(listener, client, addr)
        finally:
            self.connections.leave(network)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """A reader that stopped reading is dropped: one line, where gunicorn would log it as a fault of ours."""
        try:
            handled = super().handle_request(listener_name, req, sock, addr)
        except TimeoutError as error:
            self.log.warning("a reader of %s has stopped reading and is dropped", req.path)
            raise ConnectionResetError(errno.ECONNRESET, "dropped") from error
        if not self.alive:
            raise StopIteration  # closes the connection: its next request is for a process that stays
        return handled

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What is no HTTP gets OpenAI's error object too; gunicorn would write a page."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("not HTTP: %s", exc)
        try:
            util.write_nonblock(client, malformed(exc))
        except OSError:
            self.log.debug("the caller of a malformed request has left")

    def handle_exit(self, sig: int, frame: Any) -> None:
        app = getattr(self, "wsgi", None)  # none yet while it loads
        if app is not None and "omni" in app.extensions:
            hub = app.extensions["omni"].hub
            gevent.spawn_later(STOP_ACCEPTING_S, hub.end_streams)
            gevent.spawn_later(WHOLE_ANSWERS_S, hub.stop)
        super().handle_exit(sig, frame)


def malformed(error: ParseException) -> bytes:
    """The whole answer to bytes that gunicorn could not take for a request."""
    kind = next((kind for kind in TOO_LONG if isinstance(error, kind)), None)
    status = TOO_LONG[kind] if kind is not None else "400 Bad Request"
    body = orjson.dumps(error_body("invalid_request", f"{status[4:]}: {error}"))
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class OmniLogger(GunicornLogger):  # type: ignore[misc]
    """gunicorn's own lines go the way of all others, so that they are formatted, and kept quiet, alike."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


MakeApp = Callable[[], tuple[Any, str]]  # the application, and one line that says where it is


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's application object."""

    def __init__(self, bind: str, num_processes: int, make_app: MakeApp, watch_fd: int | None = None) -> None:
        self.bind = bind
        self.num_processes = num_processes
        self.make_app = make_app
        self.hello = ""  # what a process says when it is about to accept
        self.watch_fd = watch_fd
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": self.bind,
            "worker_class": "api.server.OmniGeventWorker",
            "workers": self.num_processes,
            "worker_connections": 10_000,
            "backlog": 4096,
            "keepalive": 30,  # also the time that a request's head may take
            "graceful_timeout": GRACE_S,
            "timeout": 60,
            "control_socket_disable": True,
            "accesslog": None,
            "loglevel": "warning",
            "logger_class": "api.server.OmniLogger",
            "limit_request_line": 4094,
            "limit_request_fields": 64,
            "limit_request_field_size": 8190,
            "proc_name": "omni-api",
            "post_worker_init": self.say_ready,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        app, self.hello = self.make_app()
        return app

    def say_ready(self, worker: Any) -> None:
        """The application is loaded and about to accept; the supervisor may let its predecessor go."""
        logger.info("%s", self.hello)
        if self.watch_fd is not None:
            os.write(self.watch_fd, b"ready\n")


def api(settings: "Settings") -> Server:
    """The API by itself: gunicorn binds the port."""
    warn_of_open_doors(settings)
    return Server(f"{bracketed(settings.host)}:{settings.port}", settings.api_processes, partial(make_api, settings))


def shared(what: list[str], listen_fd: int, watch_fd: int | None) -> Server:
    """One of several processes under a supervisor, which has checked the settings; the arbiter needs none."""

    def make_app() -> tuple[Any, str]:
        from common.settings import settings_or_exit

        settings = settings_or_exit()
        if what == ["dashboard"]:
            return make_dashboard(settings)
        warn_of_open_doors(settings)
        return make_api(settings)

    return Server(f"fd://{listen_fd}", 1, make_app, watch_fd)


def make_api(settings: "Settings") -> tuple[Any, str]:
    from api.app import create_app  # after gevent has patched the standard library
    from api.process.memory import give_large_blocks_back, search_seldom

    app = create_app(settings)
    app.extensions["omni"].hub.start()
    search_seldom()
    give_large_blocks_back()
    url = f"http://{bracketed(settings.host)}:{settings.port}"
    return app, f"chat at {url}/, board at {url}/board"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def warn_of_open_doors(settings: "Settings") -> None:
    from common.redis.open_redis import warn_of_open_redis

    warn_of_open_redis(settings.redis_url, logger)
    if not settings.is_loopback and "sk-local" in settings.keys:
        logger.warning("OMNI_HOST is %s and the API key is the public default: set OMNI_API_KEYS.", settings.host)


def dashboard(settings: "Settings") -> Server:
    """The dashboard by itself."""
    return Server(f"127.0.0.1:{settings.dashboard_port}", 1, partial(make_dashboard, settings))


def make_dashboard(settings: "Settings") -> tuple[Any, str]:
    from api.operator.dashboard import create_dashboard  # after gevent has patched the standard library
    from common.redis.open_redis import warn_of_open_redis

    warn_of_open_redis(settings.redis_url, logger)
    return create_dashboard(settings), f"rq-dashboard at http://127.0.0.1:{settings.dashboard_port}/"


def main() -> int:
    parser = argparse.ArgumentParser(prog="api.server")
    parser.add_argument("what", nargs="*", help="dashboard, or nothing for the API")
    parser.add_argument("--listen-fd", type=int)
    parser.add_argument("--watch-fd", type=int)
    parser.add_argument("--log-format", default="plain")
    args = parser.parse_args()
    if args.listen_fd is not None:
        set_up_logging(args.log_format)
        shared(args.what, args.listen_fd, args.watch_fd).run()
        return 0
    from common.settings import settings_or_exit

    settings = settings_or_exit()
    set_up_logging(settings.log_format)
    (dashboard if args.what == ["dashboard"] else api)(settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
