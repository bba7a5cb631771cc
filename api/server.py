"""gunicorn with gevent workers, configured from our settings alone.

`python -m api.server` is the API, `python -m api.server dashboard` is rq-dashboard on loopback.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey
from gevent.monkey import MonkeyPatchWarning
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers.ggevent import GeventWorker

from common.logs import set_up_logging
from common.settings import Settings, settings_or_exit

logger = logging.getLogger("omni.api")

STOP_ACCEPTING_S = 1.1  # gunicorn looks once a second whether it should stop to accept


class OmniGeventWorker(GeventWorker):  # type: ignore[misc]
    """Asked to leave, it takes no more connections, then ends open streams in a way that clients can resume."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        if "omni" in self.wsgi.extensions:
            gevent.spawn_later(STOP_ACCEPTING_S, self.wsgi.extensions["omni"].hub.stop)
        super().handle_exit(sig, frame)


class OmniLogger(GunicornLogger):  # type: ignore[misc]
    """gunicorn's own lines go the way of all others, so that they are formatted, and kept quiet, alike."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's application object."""

    def __init__(self, bind: str, num_processes: int, make_app: Callable[[], Any]) -> None:
        self.bind = bind
        self.num_processes = num_processes
        self.make_app = make_app
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": self.bind,
            "worker_class": "api.server.OmniGeventWorker",
            "workers": self.num_processes,
            "worker_connections": 10_000,
            "backlog": 4096,
            "keepalive": 30,  # also the time that a request's head may take
            "graceful_timeout": 3,
            "timeout": 60,
            "reuse_port": True,
            "control_socket_disable": True,
            "accesslog": None,
            "loglevel": "warning",
            "logger_class": "api.server.OmniLogger",
            "limit_request_line": 4094,
            "limit_request_fields": 64,
            "limit_request_field_size": 8190,
            "proc_name": "omni-api",
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        return self.make_app()


def api(settings: Settings) -> Server:
    if not settings.is_loopback and settings.keys == ("sk-local",):
        logger.warning("OMNI_HOST is %s and the API key is the public default: set OMNI_API_KEYS.", settings.host)

    load_before_binding()

    def make_app() -> Any:
        from api.app import create_app  # after gevent has patched the standard library

        app = create_app(settings)
        app.extensions["omni"].hub.start()
        return app

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return Server(f"{host}:{settings.port}", settings.api_processes, make_app)


def load_before_binding() -> None:
    """Import in the parent what its children need: the port is bound only when they can serve, and a new one is quick.

    With a port that several processes share, a listener without a server behind it would keep callers waiting.
    """
    warnings.simplefilter("ignore", MonkeyPatchWarning)  # gunicorn patches again, and more
    monkey.patch_all(os=False, signal=False, select=False)
    import api.app  # noqa: F401


def dashboard(settings: Settings) -> Server:
    def make_app() -> Any:
        from api.dashboard import create_dashboard  # after gevent has patched the standard library

        return create_dashboard(settings)

    return Server(f"127.0.0.1:{settings.dashboard_port}", 1, make_app)


def main() -> int:
    settings = settings_or_exit()
    set_up_logging(settings.log_format)
    (dashboard if sys.argv[1:] == ["dashboard"] else api)(settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
