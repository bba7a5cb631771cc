"""Folders of tensor files: one process fills a folder, many use it, and unused ones leave when the disk is full."""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.kept.files import UNFINISHED, TensorFile
from worker.kept.tensors import BrokenMemory

logger = logging.getLogger(__name__)

SUFFIX = ".omni"  # after the name of a file
LOCK, FILLING = "lock", "filling"  # files in each folder: shared by its users, and of the one that fills it
RESERVED_SHARE = 0.05  # of a disk, that is left free
PAUSE_S = 0.2  # between two looks whether another process has ended


class FileFolder:
    """The folder `name` of `root`. Several processes may have one."""

    def __init__(self, root: Path, name: str) -> None:
        """Raises OSError where it cannot be made."""
        self.path, self._root = root / name, root
        self._lock = -1
        self._open_lock()

    def close(self) -> None:
        """Others may remove it from now on. What is mapped stays mapped."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def file(self, name: str) -> TensorFile | None:
        """A complete file; None if there is none, or a broken one, which is removed. Raises OSError."""
        path = self.path_of(name)
        try:
            return TensorFile(path)
        except FileNotFoundError:
            return None
        except (BrokenMemory, ValueError, KeyError) as fault:
            logger.warning("%s is made again: %s", path, fault)
            path.unlink(missing_ok=True)
            return None

    def path_of(self, name: str) -> Path:
        return self.path / f"{name}{SUFFIX}"

    def empty(self) -> None:
        """Remove all files, within filling()."""
        for path in self.path.glob(f"*{SUFFIX}"):
            path.unlink()

    @contextmanager
    def filling(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Within this no other process fills the folder. Those that use it keep what they have mapped."""
        self.use()
        fd = os.open(self.path / FILLING, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not is_locked(fd, fcntl.LOCK_EX):
                on_wait()
                time.sleep(PAUSE_S)
            for path in self.path.glob(f"*{UNFINISHED}"):  # of a process that was killed
                path.unlink()
            yield
        finally:
            os.close(fd)

    def use(self) -> None:
        """Nobody removes it until close(); among unused ones it is the last to leave."""
        while not is_locked(self._lock, fcntl.LOCK_SH) or os.fstat(self._lock).st_nlink == 0:
            self.close()  # somebody removes it, or has just done so
            time.sleep(PAUSE_S)
            self._open_lock()
        os.utime(self.path / LOCK)

    def make_room(self, num_bytes: int) -> None:
        """Remove other folders that nobody uses, the longest unused first, until there is room for `num_bytes`.

        Raises OSError, in a sentence, if that is not enough.
        """
        for path in sorted(self._root.iterdir(), key=used_at):
            if self.lacking(num_bytes) <= 0:
                return
            if path != self.path and path.is_dir():
                remove_unused(path)
        if (lacking := self.lacking(num_bytes)) > 0:
            free = shutil.disk_usage(self._root).free
            raise OSError(
                f"its packed experts take {num_bytes / 2**30:,.1f} GiB more of the disk at {self._root}, where "
                f"{free / 2**30:,.1f} GiB are free: free {lacking / 2**30:,.1f} GiB there, or set OMNI_DATA_DIR to a "
                "folder on a larger disk."
            )

    def lacking(self, num_bytes: int) -> int:
        """Bytes; negative if there is more room."""
        disk = shutil.disk_usage(self._root)
        return num_bytes + int(disk.total * RESERVED_SHARE) - disk.free

    def _open_lock(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)


def is_locked(fd: int, kind: int) -> bool:
    """Lock a file if nobody else has it otherwise."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def used_at(folder: Path) -> float:
    """The time in seconds when somebody began to use it last; 0 for what is no such folder."""
    try:
        return (folder / LOCK).stat().st_mtime
    except OSError:
        return 0.0


def remove_unused(path: Path) -> None:
    """Remove a folder, unless somebody uses it."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR)
    except OSError:  # no folder of ours
        return
    try:
        if is_locked(lock, fcntl.LOCK_EX):
            logger.info("removing %s to make room: it was used last at %s", path, time.ctime(used_at(path)))
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
