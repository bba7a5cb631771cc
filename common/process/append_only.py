"""Repairs and syncs Valkey's append-only file, also on a disk that fills up.

Valkey (9.1.2) removes a half-written batch with ftruncate, but unless it started with that file, its next write begins
at the old offset. The gap is zero bytes, with which Valkey refuses to start; and because its byte count is then wrong,
the next half-written batch removes acknowledged commands as well. So `append_always` (valkey_seams.py) makes the kernel
put every write at the end, and `mend` removes zero bytes before a start. A power cut can leave some at the end too.

`Syncing` calls fsync once a second. Valkey's own `appendfsync everysec` delays writes for up to 2 s while it syncs, but
acknowledges them; a Valkey that is killed then has lost acknowledged commands.
"""

import logging
import mmap
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("omni.redis")

NOT_ZERO = re.compile(rb"[^\0]")
Hole = tuple[int, int]  # the offsets of its first byte and of the first byte after it
SYNC_S = 1.0


class Syncing(threading.Thread):
    """Calls fsync on Valkey's file once a second."""

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
                    logger.error("Valkey's file cannot be synced (%s); a power cut would lose the last writes", error)
                self._has_failed = True


def sync(data_dir: Path) -> None:
    """On return, everything written before the call is on disk. Raises OSError."""
    for path in data_dir.glob("appendonlydir/*.incr.aof"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            os.fsync(file.fileno())


def mend(data_dir: Path) -> None:
    """Remove zero bytes between commands, and the temporary files of rewrites that were killed."""
    for left in data_dir.glob("temp-rewriteaof-*.aof"):
        left.unlink(missing_ok=True)
    for path in sorted(data_dir.glob("appendonlydir/*.incr.aof")):
        try:
            mend_file(path)
        except OSError as error:
            logger.error(
                "%s has zero bytes between commands; the repair failed (%s) and is tried again at the next start",
                path,
                error,
            )


def mend_file(path: Path) -> None:
    """Raises OSError when there is no room for a copy; the file is then unchanged."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[0] != 0 and data.find(b"\r\n\0") < 0:  # a quick check that settles almost every file
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
    logger.warning("%s had %d zero bytes between commands; they are removed", path, sum(end - at for at, end in holes))


def find_holes(data: mmap.mmap) -> Iterator[Hole]:
    """Runs of zero bytes in place of a command. Stops at the first byte that begins neither."""
    at = 0
    with suppress(ValueError):
        while at < len(data):
            if data[at] != 0:
                at = end_of_command(data, at)
                continue
            found = NOT_ZERO.search(data, at)
            end = found.start() if found else len(data)
            yield at, end
            at = end


def end_of_command(data: mmap.mmap, at: int) -> int:
    """The end of `*<n>` and n times `$<length>` and its bytes. Raises ValueError if there is no command at `at`."""
    num_words, at = number_at(data, at, b"*")
    for _ in range(num_words):
        length, at = number_at(data, at, b"$")
        at += length + len(b"\r\n")
    return at


def number_at(data: mmap.mmap, at: int, sign: bytes) -> tuple[int, int]:
    """The number on the line at `at`, which begins with `sign`, and the offset of the next line. Raises ValueError."""
    end = data.find(b"\r\n", at)
    if data[at : at + 1] != sign or end < 0:
        raise ValueError(f"no {sign!r} at {at}")
    return int(data[at + 1 : end]), end + 2


def write_without(copy: Path, data: mmap.mmap, holes: list[Hole]) -> None:
    """Write `data` without its holes, synced to disk."""
    with copy.open("wb") as file:
        kept = 0
        for at, end in [*holes, (len(data), len(data))]:
            file.write(memoryview(data)[kept:at])
            kept = end
        file.flush()
        os.fsync(file.fileno())
