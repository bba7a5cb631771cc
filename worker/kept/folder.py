"""Folders of tensor files: one process fills a folder, many use it, and unused ones leave when the disk is full."""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
        with ExitStack() as locks:
            others = [path for path in sorted(self._root.iterdir(), key=used_at) if path != self.path]
            unused = [path for path in others if locks.enter_context(lock_unused(path))]
            if self.lacking(num_bytes) > sum(map(bytes_in, unused)):
                raise self.no_room(num_bytes)
            for path in unused:
                if self.lacking(num_bytes) <= 0:
                    return
                remove(path)
        if self.lacking(num_bytes) > 0:
            raise self.no_room(num_bytes)

    @contextmanager
    def making_room(self, num_bytes: int) -> Iterator[None]:
        """As make_room(). Within this the room is there, if no other program takes it."""
        fd = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # held for moments
            self.make_room(num_bytes)
            yield
        finally:
            os.close(fd)

    def no_room(self, num_bytes: int) -> OSError:
        free, lacking = shutil.disk_usage(self._root).free, self.lacking(num_bytes)
        what = f"free {lacking / 2**30:,.1f} GiB there" if lacking > 0 else "which another program filled: free it"
        return OSError(
            f"its packed experts take {num_bytes / 2**30:,.1f} GiB more of the disk at {self._root}, where "
            f"{free / 2**30:,.1f} GiB are free: {what}, or set OMNI_DATA_DIR to a folder on a larger disk."
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


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.exists())


@contextmanager
def lock_unused(path: Path) -> Iterator[bool]:
    """True if this is a folder of ours that nobody uses: nobody can then begin to, within this."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR)
    except OSError:
        yield False
        return
    try:
        yield is_locked(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)


def remove(path: Path) -> None:
    """A folder, within lock_unused()."""
    logger.info("removing %s to make room: it was used last at %s", path, time.ctime(used_at(path)))
    shutil.rmtree(path, ignore_errors=True)


def remove_unused(path: Path) -> None:
    """Remove a folder, unless somebody uses it."""
    with lock_unused(path) as is_unused:
        if is_unused:
            remove(path)
