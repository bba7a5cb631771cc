"""The bytes of files, in a folder or anywhere else that fsspec reaches. Every call may block.

A file is written under a temporary name and renamed when it is whole, so that no reader sees a part of one. Files do
not change, but a file that is written again replaces the one before.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs

from common.settings import SettingsError

NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
TEMPORARY = ".part"
OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"))  # told without their packages
PIECE_BYTES = 256 * 1024
RESERVE_BYTES = 256 * 2**20  # of the disk, that files leave free: four times what Valkey's own disk guard keeps
SMALLEST_SHARE = 4  # on a small disk the reserve is a quarter of it


class PendingFile:
    """A file that is being written. Used with `with`, it is committed at the end, and discarded by an exception."""

    def __init__(self, fs: Any, path: str, is_local: bool) -> None:
        self._fs = fs
        self._path = path
        self._temporary = path + TEMPORARY + os.urandom(6).hex()
        self._is_local = is_local
        self._is_named = False
        self._file: Any = fs.open(self._temporary, "wb")

    def write(self, piece: bytes | bytearray) -> None:
        """Raises OSError."""
        self._file.write(piece)

    def commit(self) -> None:
        """The bytes are on the disk, under the file's name, when this returns. Raises OSError."""
        if not self._is_local:
            self._file.close()
            self._fs.mv(self._temporary, self._path)
            self._is_named = True
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)
        self._is_named = True
        sync_folder(Path(self._path).parent)

    def discard(self) -> None:
        """Leave nothing of it, whether it was committed or not. What another writer put under its name stays."""
        with suppress(Exception):  # a remote file system may fail to finish an upload that nobody wants
            self._file.close()
        for path in (self._temporary, self._path) if self._is_named else (self._temporary,):
            with suppress(FileNotFoundError):
                self._fs.rm_file(path)

    def __enter__(self) -> "PendingFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


class FileStorage:
    """Files by their ids, in the folder of `url`. Opened at the first use. Threads may share it."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system and the folder. Raises SettingsError."""
        protocol = self.url.partition("://")[0]
        try:
            fs, folder = (None, "") if protocol in OBJECT_STORES else url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"OMNI_FILES_URL cannot be opened: {error}") from None
        if fs is None or isinstance(fs, AsyncFileSystem):  # the thread of its loop would be a greenlet, and stand still
            raise SettingsError(
                f"OMNI_FILES_URL: what reads {protocol}:// needs an event loop of its own, which does not go with "
                "gevent; mount the store as a folder (rclone mount, s3fs) and name that."
            )
        return fs, str(folder).rstrip("/")

    def check(self) -> None:
        """Raises SettingsError if the address leads nowhere that can be used."""
        _ = self._place

    @property
    def is_local(self) -> bool:
        return "file" in self._place[0].protocol

    def create(self, file_id: str) -> PendingFile:
        """Raises OSError."""
        fs, folder = self._place
        if self.is_local:
            os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)  # the data folder: closed to other users
            os.makedirs(folder, mode=0o700, exist_ok=True)
        else:
            fs.makedirs(folder, exist_ok=True)
        return PendingFile(fs, self._path(file_id), self.is_local)

    def open(self, file_id: str) -> BinaryIO:
        """For reading; it can be sought in. Raises FileNotFoundError or OSError."""
        return cast(BinaryIO, self._place[0].open(self._path(file_id), "rb"))

    def pieces(self, file_id: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `end`. Raises FileNotFoundError or OSError."""
        with self.open(file_id) as file:
            file.seek(start)
            left = end - start if end is not None else None
            while piece := file.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
                left = None if left is None else left - len(piece)
                yield piece

    def size(self, file_id: str) -> int:
        """Raises FileNotFoundError."""
        return int(self._place[0].size(self._path(file_id)))

    def delete(self, file_id: str) -> None:
        """A file that is not there is no fault."""
        with suppress(FileNotFoundError):
            self._place[0].rm_file(self._path(file_id))

    def has_room(self, num_bytes: int) -> bool:
        """Whether the disk would keep its reserve. Object stores have no such end."""
        if not self.is_local:
            return True
        folder = Path(self._place[1])
        usage = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists()))
        return usage.free - num_bytes >= min(RESERVE_BYTES, usage.total // SMALLEST_SHARE)

    def old_names(self, age_s: float) -> list[str]:
        """The names of all files that were last written so long ago; unfinished ones have TEMPORARY in their names."""
        fs, folder = self._place
        try:
            found = fs.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        before = time.time() - age_s
        return [
            str(entry["name"]).rsplit("/", 1)[-1]
            for entry in found
            if entry["type"] == "file" and _written(entry) < before
        ]

    def remove(self, name: str) -> None:
        """Remove one of `old_names`."""
        with suppress(FileNotFoundError):
            self._place[0].rm_file(f"{self._place[1]}/{name}")

    def _path(self, file_id: str) -> str:
        if not NAME.fullmatch(file_id):
            raise FileNotFoundError(file_id)
        return f"{self._place[1]}/{file_id}"


def sync_folder(folder: Path) -> None:
    """A renamed file survives a power cut only with its folder's entry."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _written(entry: dict[str, Any]) -> float:
    """When a listed file was written, under the names that file systems have for it; now if they do not say."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        found = entry.get(name)
        if isinstance(found, datetime):
            return found.timestamp()
        if isinstance(found, (int, float)):
            return float(found)
    return time.time()
