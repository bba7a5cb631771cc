"""The API process: gunicorn with gevent workers, configured from our settings alone."""

import logging
import sys
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication
from gunicorn.workers.ggevent import GeventWorker

from common.logs import set_up_logging
from common.settings import Settings, settings_or_exit

logger = logging.getLogger("omni.api")


class OmniGeventWorker(GeventWorker):  # type: ignore[misc]
    """Ends open streams in a way that clients can resume, as soon as it is asked to leave."""

    def init_process(self) -> None:
        self.patch()
        super().init_process()

    def handle_exit(self, sig: int, frame: Any) -> None:
        gevent.spawn(self.wsgi.extensions["omni"].hub.stop)
        super().handle_exit(sig, frame)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's application object."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        options = {
            "bind": f"{host}:{self.settings.port}",
            "worker_class": "api.server.OmniGeventWorker",
            "workers": self.settings.api_processes,
            "worker_connections": 10_000,
            "backlog": 4096,
            "keepalive": 75,
            "graceful_timeout": 3,
            "timeout": 60,
            "reuse_port": True,
            "control_socket_disable": True,
            "accesslog": None,
            "loglevel": "warning",
            "proc_name": "omni-api",
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        from api.app import create_app  # after gevent has patched the standard library

        app = create_app(self.settings)
        app.extensions["omni"].hub.start()
        return app


def main() -> int:
    settings = settings_or_exit()
    set_up_logging(settings.log_format)
    if not settings.is_loopback and settings.keys == ("sk-local",):
        logger.warning("OMNI_HOST is %s and the API key is the public default: set OMNI_API_KEYS.", settings.host)
    Server(settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
