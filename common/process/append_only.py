"""Valkey's append-only file on a disk that fills up.

Valkey (9.1.2) takes a half-written batch back with ftruncate, but unless it was started with that file its next write
begins where the last one ended. What lies between are zero bytes, with which it refuses to start; and its count of the
bytes is wrong from then on, so that the next half-written batch takes acknowledged commands with it.
So `append_always` makes the kernel put every write at the end, and `mend` takes zero bytes out before a start: a power
cut can leave some at the end too.

It is put on disk by us, once a second. Valkey's own `appendfsync everysec` holds writes back while it syncs, up to 2 s,
and answers all the same: a Valkey that is killed then has lost what it acknowledged.
"""

import ctypes
import fcntl
import logging
import mmap
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("omni.redis")

SOMETHING = re.compile(rb"[^\0]")
Hole = tuple[int, int]  # its first byte, and the first one after it


SYNC_S = 1.0
PIDFD_GETFD = 438  # the system call's number, on every architecture


def append_always(pid: int, data_dir: Path) -> None:
    """Have this Valkey, a child of ours, write at the end of its file only. To be repeated: a rewrite opens another.

    Raises PermissionError where that is not allowed. Only Linux can do it; elsewhere this does nothing.
    """
    if sys.platform != "linux":
        return
    folder = str(data_dir.resolve() / "appendonlydir")
    with suppress(FileNotFoundError, ProcessLookupError):  # a file that was closed, or a Valkey that has ended
        for link in Path(f"/proc/{pid}/fd").iterdir():
            name = os.readlink(link)
            if name.startswith(folder) and name.endswith(".incr.aof"):
                set_append(pid, int(link.name))


def set_append(pid: int, fd: int) -> None:
    """Set O_APPEND on an open file of another process."""
    [flags] = [line for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines() if line.startswith("flags:")]
    if int(flags.split()[1], 8) & os.O_APPEND:
        return
    pidfd = os.pidfd_open(pid)
    try:
        ours = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, fd, 0)
        if ours < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_APPEND)
        finally:
            os.close(ours)
    finally:
        os.close(pidfd)


class Syncing(threading.Thread):
    """Puts on disk, once a second, what Valkey has written."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(name="syncing", daemon=True)
        self._data_dir = data_dir
        self._has_failed = False

    def run(self) -> None:
        while True:
            time.sleep(SYNC_S)
            try:
                sync(self._data_dir)
                self._has_failed = False
            except OSError as error:
                if not self._has_failed:
                    logger.error("what Valkey writes cannot be put on disk (%s); a power cut would lose it", error)
                self._has_failed = True


def sync(data_dir: Path) -> None:
    """Whatever had been written is on disk when this returns. Raises OSError."""
    for path in data_dir.glob("appendonlydir/*.incr.aof"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            os.fsync(file.fileno())


def mend(data_dir: Path) -> None:
    """Take zero bytes between commands out of the file, and remove what rewrites left that were killed with Valkey."""
    for left in data_dir.glob("temp-rewriteaof-*.aof"):
        left.unlink(missing_ok=True)
    for path in sorted(data_dir.glob("appendonlydir/*.incr.aof")):
        try:
            mend_file(path)
        except OSError as error:
            logger.error("%s has a hole and cannot be mended (%s); it is tried again at the next start", path, error)


def mend_file(path: Path) -> None:
    """Raises OSError when there is no room for a copy; the file is then as it was."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[0] != 0 and data.find(b"\r\n\0") < 0:  # quick, and true of almost every file
            return
        holes = list(find_holes(data))
        if not holes:
            return
        copy = path.with_name(f"temp-{path.name}")
        try:
            write_without(copy, data, holes)
            copy.replace(path)
        finally:
            copy.unlink(missing_ok=True)
    logger.warning("%s had %d zero bytes between commands; took them out", path, sum(end - at for at, end in holes))


def find_holes(data: mmap.mmap) -> Iterator[Hole]:
    """Where zero bytes stand in place of a command. Ends at the first thing that is neither."""
    at = 0
    with suppress(ValueError):
        while at < len(data):
            if data[at] != 0:
                at = end_of_command(data, at)
                continue
            found = SOMETHING.search(data, at)
            end = found.start() if found else len(data)
            yield at, end
            at = end


def end_of_command(data: mmap.mmap, at: int) -> int:
    """Where `*<n>` and n times `$<length>` and its bytes end. Raises ValueError when that is not what stands here."""
    num_words, at = number_at(data, at, b"*")
    for _ in range(num_words):
        length, at = number_at(data, at, b"$")
        at += length + len(b"\r\n")
    return at


def number_at(data: mmap.mmap, at: int, sign: bytes) -> tuple[int, int]:
    """The number on the line that begins here with `sign`, and where the next line begins."""
    end = data.find(b"\r\n", at)
    if data[at : at + 1] != sign or end < 0:
        raise ValueError(f"no {sign!r} at {at}")
    return int(data[at + 1 : end]), end + 2


def write_without(copy: Path, data: mmap.mmap, holes: list[Hole]) -> None:
    with copy.open("wb") as file:
        kept = 0
        for at, end in [*holes, (len(data), len(data))]:
            file.write(memoryview(data)[kept:at])
            kept = end
        file.flush()
        os.fsync(file.fileno())
