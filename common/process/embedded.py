"""The `redis` process: an embedded Valkey on a unix socket in OMNI_DATA_DIR.

With REDIS_URL it starts none, and only says when that Redis does not answer.

A Valkey that dies is restarted on the same append-only file, without loss of acknowledged commands; one that refuses
its file is retried with growing pauses. On SIGTERM the process waits until Valkey's clients have disconnected, because
they return their jobs first. All of this needs the folder's lock (data_folder.py).
"""

import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from redis.exceptions import RedisError

from common.environment import started_by_honcho, starter_pid
from common.flag import Flag
from common.logs import set_up_logging
from common.process.append_only import Syncing, mend
from common.process.data_folder import FolderRefused, mark_stopping, take
from common.process.disk_guard import DiskGuard
from common.process.honcho_seams import follow
from common.process.machine_memory import queue_bytes
from common.process.processes import die_with_parent, parent_of
from common.process.valkey_seams import append_always, server_path
from common.redis.connection import connect
from common.redis.server import RedisWatch
from common.settings import Settings, refuse, settings_or_exit

logger = logging.getLogger("omni.redis")

LOOK_S = 1.0
LINGER_S = 3.5  # the Procfile runner kills this process after 5
LONG_LIFE_S = 60.0  # Valkey refuses a bad file sooner
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 30.0
STAMP = re.compile(r"^\d+:\w .*? [.*#-] ")  # pid, role and time of a log line


def command(settings: Settings) -> list[str]:
    """Valkey's command line: no TCP port, append before the reply, bounded memory without eviction.

    A restart reads the file first, 8 ms per megabyte, while all clients wait; so the file is rewritten early.
    """
    folder = settings.redis.data_dir.resolve()
    options = {
        "port": "0",
        "unixsocket": str(settings.redis.socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "no",  # `Syncing` does that
        "auto-aof-rewrite-min-size": "16mb",
        "auto-aof-rewrite-percentage": "50",
        "save": "",
        "maxmemory": str(settings.redis.max_memory or queue_bytes()),
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": str(folder / "valkey.log"),
    }
    return [server_path(), *(part for name, value in options.items() for part in (f"--{name}", value))]


def prepare(settings: Settings) -> None:
    """Remove the old socket and repair the file; the folder's owner calls this before each start."""
    Path(settings.redis.socket_path).unlink(missing_ok=True)
    mend(settings.redis.data_dir.resolve())


def start(settings: Settings, lock_fd: int) -> "subprocess.Popen[bytes]":
    """Start a Valkey that also holds the folder's lock, so that no other starts while it is still ending."""
    prepare(settings)
    # in its own session, so that a signal to the process group does not end it before its clients
    return subprocess.Popen(command(settings), preexec_fn=die_with_parent, start_new_session=True, pass_fds=[lock_fd])


def appends(server: "subprocess.Popen[bytes]", settings: Settings) -> bool:
    """Set O_APPEND on Valkey's file. Returns False, with a warning, where the system forbids it."""
    try:
        append_always(server.pid, settings.redis.data_dir)
    except PermissionError as error:
        logger.warning("Valkey's file is not safe from a full disk here (pidfd_getfd: %s); keep room free", error)
        return False
    return True


def reason_of(settings: Settings, status: int) -> str:
    """The exit status or signal, and the last log line if Valkey ended by itself."""
    if status < 0:
        return f"signal {-status}"
    with suppress(OSError, IndexError):
        log = (settings.redis.data_dir / "valkey.log").read_text(errors="replace")
        return f"status {status}: {STAMP.sub('', log.rstrip().splitlines()[-1])}"
    return f"status {status}"


class Endings:
    """Logs each reason for an end once, and decides how long to wait before the restart."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._began = clock()
        self._logged = ""
        self._num_refusals = 0

    def pause_after(self, status: int) -> float:
        """Short after a kill; growing while Valkey ends by itself soon after each start."""
        if status <= 0 or self._clock() - self._began > LONG_LIFE_S:
            self._num_refusals = 0
            self._logged = ""
        reason = reason_of(self._settings, status)
        if reason != self._logged:
            again = "tried again with growing pauses" if status > 0 else "restarted"
            logger.warning("Valkey ended (%s); it is %s", reason, again)
            self._logged = reason
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0**self._num_refusals)
        self._num_refusals += status > 0
        self._began = self._clock() + pause_s
        return pause_s


def keep(settings: Settings, lock_fd: int, stopping: Flag) -> "subprocess.Popen[bytes]":
    """Run Valkey, with restarts, until `stopping` is set. Returns the last process."""
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
    os.umask(0o077)  # inherited by Valkey, whose files hold prompts
    set_up_logging(settings.operator.log_level)
    stopping = Flag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if settings.redis.given_url:
        logger.info("REDIS_URL is set: the embedded Valkey is not used")
        watch_other(settings, stopping)
        return
    try:
        lock_fd = take(settings.redis.data_dir.resolve(), starter_pid())
    except FolderRefused as error:
        refuse(str(error))
    Syncing(settings.redis.data_dir).start()
    DiskGuard(settings.redis.data_dir, connect(settings.redis.url, retries=0)).start()
    server = keep(settings, lock_fd, stopping)
    mark_stopping(lock_fd)
    wait_for_clients(settings, server)
    server.terminate()
    server.wait()


def watch_other(settings: Settings, stopping: Flag) -> None:
    """Say it, until `stopping` is set, when the Redis of REDIS_URL does not answer: all other processes wait for it."""
    watch = RedisWatch(connect(settings.redis.url, retries=0), settings.redis.given_url, logger)
    watch.answers()
    while not stopping.wait(LOOK_S):
        watch.answers()


def wait_for_clients(settings: Settings, server: "subprocess.Popen[bytes]") -> None:
    """Wait until no other client is connected, for at most LINGER_S."""
    deadline = time.monotonic() + LINGER_S
    with suppress(RedisError), connect(settings.redis.url, retries=0) as redis:
        while server.poll() is None and time.monotonic() < deadline:
            if int(redis.info("clients")["connected_clients"]) <= 1:  # this one
                return
            time.sleep(0.05)


if __name__ == "__main__":
    main()
