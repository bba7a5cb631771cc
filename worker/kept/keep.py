"""The client of the keeper (common/process/keeper): memory by name that a successor of this process finds."""

import json
import logging
import mmap
import os
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any

from common.process.keeper.supervised import PACKET_BYTES, allocated_bytes

logger = logging.getLogger("omni.worker")

TIMEOUT_S = 2.0  # for a reply; a keeper that takes longer counts as gone


@dataclass(frozen=True, slots=True)
class KeptMemory:
    """Memory that processes may share. `fd` is -1 where the system has no memfds: then it is of this process only."""

    name: str
    num_bytes: int
    fd: int
    pages: mmap.mmap | None = None  # where there is no fd

    @property
    def allocated_bytes(self) -> int:
        """That are in use: pages that were never written take none."""
        return allocated_bytes(self.fd) if self.fd >= 0 else self.num_bytes

    def map(self, *, is_private: bool = False, is_read_only: bool = False) -> mmap.mmap:
        """The memory in this process. What is written to a private mapping stays in this process.

        One that is read only takes nothing of what the system may promise (vm.overcommit_memory=2).
        """
        if self.pages is not None:
            return self.pages
        flags = mmap.MAP_PRIVATE if is_private else mmap.MAP_SHARED
        access = mmap.PROT_READ if is_read_only else mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(self.fd, self.num_bytes, flags=flags, prot=access)

    def close(self) -> None:
        """Let go of it; mappings stay. The memory is freed when nobody has it any more."""
        if self.fd >= 0:
            os.close(self.fd)


class Keep:
    """What is kept by this process, and by the keeper where there is one. Its methods may be called from any thread."""

    def __init__(self, door_fd: int | None) -> None:
        """`door_fd`: see KeeperProcess; None keeps within this process."""
        self._door = None if door_fd is None else socket.socket(fileno=os.dup(door_fd))
        self._held: dict[str, KeptMemory] = {}  # given back when the keeper has died
        self._connection: socket.socket | None = None
        self._lock = threading.RLock()
        if self._door is not None:
            threading.Thread(target=self._give_back_when_lost, name="keep", daemon=True).start()

    @classmethod
    def none(cls) -> "Keep":
        """Keeps within this process only."""
        return cls(None)

    @property
    def outlives_us(self) -> bool:
        """True where a successor can find what is put."""
        return self._door is not None

    def create(self, name: str, num_bytes: int) -> KeptMemory:
        """Zeros, to be filled and put. Nobody finds them before put(). Raises OSError."""
        if sys.platform != "linux":
            return KeptMemory(name, num_bytes, -1, mmap.mmap(-1, num_bytes))
        fd = os.memfd_create(f"omni-{name}"[:200], os.MFD_CLOEXEC)
        os.ftruncate(fd, num_bytes)
        return KeptMemory(name, num_bytes, fd)

    def put(self, memory: KeptMemory) -> None:
        """Let it be found under its name, instead of what was put before. It may still be written to."""
        with self._lock:
            if self._held.get(memory.name) is not memory:
                self._forget(memory.name)
            self._held[memory.name] = memory
            self._ask({"do": "put", "name": memory.name}, memory.fd)

    def find(self, name: str) -> KeptMemory | None:
        with self._lock:
            if name not in self._held:
                _, fd = self._ask({"do": "find", "name": name})
                if fd is None:
                    return None
                self._held[name] = KeptMemory(name, os.fstat(fd).st_size, fd)
            return self._held[name]

    def drop(self, name: str) -> None:
        """It is found no more. Mappings of it stay."""
        with self._lock:
            self._forget(name)
            self._ask({"do": "drop", "name": name})

    def sizes(self) -> dict[str, int]:
        """Bytes in use of all that is kept, by name."""
        with self._lock:
            found, _ = self._ask({"do": "sizes"})
            return {**(found or {}), **{name: held.allocated_bytes for name, held in self._held.items()}}

    def _forget(self, name: str) -> None:
        if (held := self._held.pop(name, None)) is not None:
            held.close()

    def _ask(self, request: dict[str, str], fd: int = -1) -> tuple[Any, int | None]:
        """The reply and its memfd; (None, None) without a keeper that answers."""
        if self._door is None:
            return None, None
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.settimeout(TIMEOUT_S)
            socket.send_fds(self._connection, [json.dumps(request).encode()], [fd] if fd >= 0 else [])
            answer, fds, _, _ = socket.recv_fds(self._connection, PACKET_BYTES, 1)
            if not answer:
                raise ConnectionResetError("it has ended")
            return json.loads(answer), fds[0] if fds else None
        except OSError as error:  # a late reply must not be read as the next one's
            logger.warning("the keeper does not answer: %s", error)
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            return None, None

    def _connect(self) -> socket.socket:
        """A connection that the keeper, or the next one, serves."""
        assert self._door is not None
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            socket.send_fds(self._door, [b"client"], [far.fileno()])
        return near

    def _give_back_when_lost(self) -> None:
        """Put all that is held whenever the keeper has died: the next one begins empty."""
        while True:
            try:
                with self._connect() as watch:
                    watch.recv(1)  # nothing is ever sent on it: returns at the keeper's end
            except ConnectionError:  # there will be no other keeper
                return
            with self._lock:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                for memory in self._held.values():
                    self._ask({"do": "put", "name": memory.name}, memory.fd)
