"""The log in OMNI_DATA_DIR: files of bounded size, for `omni logs`.

Several runners may write to one (`omni serve worker` beside `omni serve redis api`): each line is one append, and files
are moved under a lock.
"""

import os
from contextlib import suppress
from pathlib import Path

from filelock import lock_descriptor

FOLDER, NAME = "log", "service.log"
MAX_BYTES = 8 * 2**20  # of a file
NUM_OLD = 3  # files beside the newest


def log_of(data_dir: Path) -> Path:
    return data_dir.resolve() / FOLDER / NAME


def files_of(path: Path) -> list[Path]:
    """The files of a log that are there, the newest first."""
    return [file for file in (path, *(old(path, number) for number in range(1, NUM_OLD + 1))) if file.exists()]


def old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


class LogFile:
    """A stream for a printer. What cannot be written is dropped: the service goes on."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._fd = -1

    def write(self, text: str) -> int:
        line = text.encode(errors="replace")
        with suppress(OSError):
            if self._fd < 0:
                self._open()
            os.write(self._fd, line)
            if os.fstat(self._fd).st_size >= self._max_bytes:
                self._move()
        return len(text)

    def flush(self) -> None:
        """Each write is one already."""

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _move(self) -> None:
        """Begin a new file, unless another runner has."""
        try:
            lock_descriptor(self._fd, blocking=True)
            if os.path.samestat(os.fstat(self._fd), self._path.stat()):
                for number in range(NUM_OLD - 1, 0, -1):
                    if old(self._path, number).exists():
                        old(self._path, number).replace(old(self._path, number + 1))
                self._path.replace(old(self._path, 1))
        finally:
            os.close(self._fd)
            self._fd = -1
