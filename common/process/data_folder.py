"""OMNI_DATA_DIR: a private folder with one owner at a time.

The owner, which runs Valkey, holds a lock on a file in the folder; the kernel releases it when the owner dies. Valkey
inherits the lock, so no second Valkey starts on the same file before both are gone.
"""

import os
import socket
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import lock_descriptor

from common.process.processes import is_alive
from common.settings import SOCKET

LOCK = "lock"
OURS = frozenset({LOCK, "appendonlydir", "valkey.log"})
RUNNING_S = 1.0  # how long to wait for a running owner: the kernel may not have released a killed owner's lock yet
STOPPING_S = 10.0  # how long to wait for a stopping owner, which stops last, or for a Valkey without its parent


class FolderRefused(Exception):
    """One sentence that names the setting, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The current or last holder of the lock, as written in its file."""

    pid: int  # 0 if unknown
    is_stopping: bool
    starter: int = 0  # the Procfile runner, which ends all processes in order; 0 without one

    @property
    def name(self) -> str:
        pid = self.starter if self.starter and is_alive(self.starter) else self.pid
        return f"process {pid}" if pid else "another process"


def take(folder: Path, starter: int = 0) -> int:
    """Become the owner; returns the lock's file descriptor. Raises FolderRefused."""
    make_private(folder)
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            wait_for_lock(fd, folder)
            if is_answered(folder / SOCKET):
                raise FolderRefused(
                    f"OMNI_DATA_DIR={folder} is in use by a Valkey whose owner has no lock, as of an older version of "
                    "this service; stop that first."
                )
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise FolderRefused(f"OMNI_DATA_DIR={folder} cannot be locked: {error.strerror}; choose another.") from error
    write(fd, f"{os.getpid()} {starter}")
    return fd


def wait_for_lock(fd: int, folder: Path) -> None:
    """Wait while the owner may still be stopping. Raises FolderRefused."""
    began = time.monotonic()
    while not lock_descriptor(fd, blocking=False):
        owner = read(fd)
        if time.monotonic() - began > (STOPPING_S if owner.is_stopping else RUNNING_S):
            raise FolderRefused(
                f"OMNI_DATA_DIR={folder} is in use by {owner.name}, another start of this service; "
                "stop that one, or choose another folder and other ports."
            )
        time.sleep(0.05)


def is_answered(path: Path) -> bool:
    """True if a server accepts connections on this unix socket."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1.0)
        return caller.connect_ex(str(path)) == 0


def mark_stopping(fd: int) -> None:
    """Note in the lock's file that the owner is stopping, so that the next start waits for it."""
    write(fd, f"{os.getpid()} {read(fd).starter} stopping")


def owner_of(folder: Path) -> Owner | None:
    """The folder's present owner; None without one."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if lock_descriptor(fd, blocking=False) else read(fd)
    finally:
        os.close(fd)


def write(fd: int, text: str) -> None:
    """Overwrite in place with a fixed length, which works on a full disk. On failure the pid stays unknown."""
    with suppress(OSError):
        os.pwrite(fd, f"{text:<31}\n".encode(), 0)


def read(fd: int) -> Owner:
    words = os.pread(fd, 32, 0).split()
    is_stopping = b"stopping" in words or b"leaving" in words  # leaving: by an older version
    pid, starter = (int(word) if word.isdigit() else 0 for word in (*words, b"", b"")[:2])
    return Owner(pid, is_stopping or (pid > 0 and not is_alive(pid)), starter)


def make_private(folder: Path) -> None:
    """Create the folder, or close ours to other users. Raises FolderRefused if it is not ours or not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            close_to_others(folder)
    except FileExistsError:
        raise FolderRefused(f"OMNI_DATA_DIR={folder} is not a folder; choose another.") from None
    except OSError as error:
        raise FolderRefused(f"OMNI_DATA_DIR={folder} cannot be used: {error.strerror}; choose another.") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise FolderRefused(f"OMNI_DATA_DIR={folder} cannot be written by this user; change its owner or its mode.")


def close_to_others(folder: Path) -> None:
    """Set mode 700, but only on a folder that may be ours. Raises FolderRefused."""
    if not may_be_ours(folder):
        raise FolderRefused(
            f"{open_to_others(folder)} and prompts are kept there; choose a new folder in it, or chmod 700 this one."
        )
    folder.chmod(0o700)


def may_be_ours(folder: Path) -> bool:
    """True for a folder of this user that is empty or holds our files: never for /tmp or a home."""
    found, names = folder.stat(), {path.name for path in folder.iterdir()}
    return bool(found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX and (not names or names & OURS))


def open_to_others(folder: Path) -> str:
    mode = folder.stat().st_mode & 0o7777
    return f"OMNI_DATA_DIR={folder} is open to other users of this machine (mode {mode:o})"


def folder_fault(folder: Path) -> str:
    """Why a start would refuse the folder, found without changing anything; empty if it would not."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        return f"OMNI_DATA_DIR={folder} is not a folder" if nearest == folder else f"{nearest} is not a folder"
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        return f"OMNI_DATA_DIR={folder} cannot be written by this user"
    is_open = nearest == folder and folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return open_to_others(folder) if is_open and not may_be_ours(folder) else ""
