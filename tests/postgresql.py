"""A private PostgreSQL server on a unix socket in a temporary folder, for tests. It ends with its `with`."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

NEEDS = "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
USER = "omni"


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class PostgreSQL:
    """A running server; `new_database()` gives the address of an empty database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = count(1)

    def admin(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True)

    def new_database(self) -> str:
        name = f"test_{next(self._numbers)}"
        with self.admin() as connection:
            connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy".encode())
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"


@contextmanager
def running() -> Iterator[PostgreSQL]:
    """Raises FileNotFoundError without a server. As root it runs as nobody, because PostgreSQL refuses root."""
    programs = binaries()
    if programs is None:
        raise FileNotFoundError(NEEDS)
    folder = Path(tempfile.mkdtemp(prefix="omni-pg-"))
    who = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    if who:
        shutil.chown(folder, "nobody", "nogroup")
    data, quiet = folder / "data", subprocess.DEVNULL
    initdb = [programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C"]
    server = None
    try:
        subprocess.run(initdb, check=True, stdout=quiet, cwd=folder, **who)  # type: ignore[call-overload]
        options = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "shared_buffers=16MB")
        command = [programs / "postgres", "-D", data, *(part for option in options for part in ("-c", option))]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **who)
        _wait(folder, server)
        yield PostgreSQL(folder)
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # it waits for no connection
            server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(folder: Path, server: "subprocess.Popen[bytes]") -> None:
    while True:
        try:
            psycopg.connect(host=str(folder), user=USER, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None:
                raise RuntimeError((folder / "log").read_text()) from None
        try:
            server.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
