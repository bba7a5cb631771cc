"""gunicorn with gevent workers, configured from our settings alone.

`python -m api.server` is the API, `python -m api.server dashboard` is rq-dashboard on loopback. With --listen-fd
(`common.process.supervise --listen`) this is one of several processes that accept from the supervisor's socket.
"""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.app.base import BaseApplication

from api.gate.gunicorn_seams import GRACE_S
from common.addresses import bracketed, url_of
from common.files.storage import FileStorage
from common.logs import set_up_logging
from common.redis.server import warn_of_open_redis
from common.settings import PUBLIC_KEY, Settings, SettingsError, refuse, settings_or_exit

logger = logging.getLogger("omni.api")

MakeApp = Callable[[], tuple[Any, str]]  # the application, and the log line that says where it is


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's application object."""

    def __init__(self, bind: str, num_processes: int, make_app: MakeApp, watch_fd: int | None = None) -> None:
        self.bind = bind
        self.num_processes = num_processes
        self.make_app = make_app
        self.greeting = ""
        self.watch_fd = watch_fd
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": self.bind,
            "worker_class": "api.gate.gunicorn_seams.OmniGeventWorker",
            "workers": self.num_processes,
            "worker_connections": 10_000,
            "backlog": 4096,
            "keepalive": 30,  # also the time limit of a request's head
            "graceful_timeout": GRACE_S,
            "timeout": 60,
            "control_socket_disable": True,
            "accesslog": None,
            "loglevel": "warning",
            "logger_class": "api.gate.gunicorn_seams.OmniLogger",
            "limit_request_line": 4094,
            "limit_request_fields": 64,
            "limit_request_field_size": 8190,
            "proc_name": "omni-api",
            "post_worker_init": self.announce,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        app, self.greeting = self.make_app()
        return app

    def announce(self, worker: Any) -> None:
        """The application is loaded and about to accept: the supervisor may stop the process that this one replaces."""
        logger.info("%s", self.greeting)
        if self.watch_fd is not None:
            os.write(self.watch_fd, b"ready\n")


def server_of(settings: Settings, *, is_dashboard: bool, listen_fd: int | None, watch_fd: int | None) -> Server:
    if is_dashboard:
        bind, num_processes = f"127.0.0.1:{settings.operator.dashboard_port}", 1
    else:
        bind, num_processes = f"{bracketed(settings.server.host)}:{settings.server.port}", settings.server.processes
        warn_of_default_key(settings)
        FileStorage(settings.files_url).check()
    warn_of_open_redis(settings.redis.given_url, logger)
    make_app = partial(make_dashboard if is_dashboard else make_api, settings)
    if listen_fd is not None:  # the supervisor starts as many as there should be
        bind, num_processes = f"fd://{listen_fd}", 1
    return Server(bind, num_processes, make_app, watch_fd)


def make_api(settings: Settings) -> tuple[Any, str]:
    gc.disable()  # imports leave no garbage, and looking for it took a seventh of their time
    from api.app import create_app  # only now: gevent has patched the standard library
    from api.process.memory import collect_rarely, return_large_blocks

    app = create_app(settings)
    app.extensions["omni"].start()
    collect_rarely()
    gc.enable()
    return_large_blocks()
    url = url_of(settings.server.host, settings.server.port)
    return app, f"chat at {url}/, board at {url}/board"


def make_dashboard(settings: Settings) -> tuple[Any, str]:
    from api.operator.dashboard import create_dashboard  # only now: gevent has patched the standard library

    return create_dashboard(settings), f"rq-dashboard at http://127.0.0.1:{settings.operator.dashboard_port}/"


def warn_of_default_key(settings: Settings) -> None:
    server = settings.server
    if not server.is_loopback and PUBLIC_KEY in server.api_keys:
        logger.warning("OMNI_HOST is %s and the API key is the public default: set OMNI_API_KEYS.", server.host)


def main() -> int:
    parser = argparse.ArgumentParser(prog="api.server")
    parser.add_argument("app", nargs="?", choices=["api", "dashboard"], default="api")
    parser.add_argument("--listen-fd", type=int)
    parser.add_argument("--watch-fd", type=int)
    settings = settings_or_exit()
    args = parser.parse_args()
    set_up_logging(settings.operator.log_level)
    is_dashboard = args.app == "dashboard"
    try:
        server = server_of(settings, is_dashboard=is_dashboard, listen_fd=args.listen_fd, watch_fd=args.watch_fd)
    except SettingsError as error:
        refuse(str(error))
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
