"""Which KV blocks are free, used and cached: bookkeeping only, no tensors.

A free block keeps its content and can be found by its hash until it is allocated again, least recently used first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

HASH_BYTES = 32
Moves = dict[int, int]  # block id before -> after


class Journal(Protocol):
    """Told of each change (worker/state/kept_blocks.py)."""

    def blocks(self) -> Iterable[tuple[int, bytes]]:
        """Blocks with a hash, least recently used first."""

    def write(self, block_id: int, block_hash: bytes) -> None: ...
    def clear(self, block_id: int) -> None: ...
    def move(self, old: int, new: int) -> None: ...
    def hold(self, block_ids: Iterable[int]) -> None: ...
    def release(self, block_ids: Iterable[int]) -> None: ...


class NoJournal:
    """Nobody finds the blocks after this process."""

    def blocks(self) -> Iterable[tuple[int, bytes]]:
        return ()

    def write(self, block_id: int, block_hash: bytes) -> None:
        """Nothing."""

    def clear(self, block_id: int) -> None:
        """Nothing."""

    def move(self, old: int, new: int) -> None:
        """Nothing."""

    def hold(self, block_ids: Iterable[int]) -> None:
        """Nothing."""

    def release(self, block_ids: Iterable[int]) -> None:
        """Nothing."""


class BlockPool:
    """Counts the users of each block and finds blocks by the hash of their tokens and all earlier ones."""

    def __init__(self, num_blocks: int, journal: Journal | None = None) -> None:
        """The blocks that the journal knows are cached."""
        self.num_blocks = num_blocks
        self._journal = journal or NoJournal()
        self._num_users = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._free = OrderedDict.fromkeys(range(num_blocks))  # oldest first
        self._peak = 0  # the most blocks in use since take_peak()
        for block_id, block_hash in self._journal.blocks():
            self.cache(block_id, block_hash)
            if self._hashes[block_id] is not None:
                self._free.move_to_end(block_id)
            else:  # another block has the same content
                self._journal.clear(block_id)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def take_peak(self) -> int:
        """The most blocks that were in use at a time since the last call."""
        peak, self._peak = max(self._peak, self.num_used), self.num_used
        return peak

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The cached blocks of the longest prefix of this chain."""
        found = []
        for block_hash in hashes:
            block_id = self._block_of.get(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def num_unused(self, block_ids: Iterable[int]) -> int:
        """Number of these blocks that are free and would no longer be if they were taken."""
        return sum(block_id in self._free for block_id in block_ids)

    def take(self, block_ids: Iterable[int]) -> None:
        """Add a user to blocks that were found."""
        block_ids = list(block_ids)
        for block_id in block_ids:
            self._num_users[block_id] += 1
            self._free.pop(block_id, None)
        self._journal.hold(block_ids)
        self._peak = max(self._peak, self.num_used)

    def allocate(self, num_blocks: int) -> list[int]:
        """Blocks to write into, evicted from the cache. The caller has checked `num_free`."""
        block_ids = [self._free.popitem(last=False)[0] for _ in range(num_blocks)]
        self.evict(block_ids)
        for block_id in block_ids:
            self._num_users[block_id] = 1
        self._journal.hold(block_ids)
        self._peak = max(self._peak, self.num_used)
        return block_ids

    def evict(self, block_ids: Iterable[int]) -> None:
        """Make these blocks impossible to find."""
        for block_id in block_ids:
            block_hash = self._hashes[block_id]
            if block_hash is not None:
                self._journal.clear(block_id)
                del self._block_of[block_hash]
                self._hashes[block_id] = None

    def exclusive(self, block_ids: Iterable[int]) -> list[int]:
        """The blocks with exactly one user."""
        return [block_id for block_id in block_ids if self._num_users[block_id] == 1]

    def cache(self, block_id: int, block_hash: bytes) -> None:
        """Make a full, computed block findable, unless a block with the same content is."""
        if block_hash not in self._block_of and self._hashes[block_id] is None:
            self._block_of[block_hash] = block_id
            self._hashes[block_id] = block_hash

    def keep(self, block_id: int, block_hash: bytes) -> None:
        """As cache(), and so that a successor of this process finds it: its content is final."""
        self.cache(block_id, block_hash)
        if self._hashes[block_id] == block_hash:
            self._journal.write(block_id, block_hash)

    def free(self, block_ids: list[int]) -> None:
        """Remove a user. The last block of a chain becomes free first, so that prefixes stay cached longest."""
        freed = []
        for block_id in reversed(block_ids):
            self._num_users[block_id] -= 1
            if self._num_users[block_id] == 0:
                freed.append(block_id)
                self._free[block_id] = None
                if self._hashes[block_id] is None:  # not cached: allocate it next
                    self._free.move_to_end(block_id, last=False)
        self._journal.release(freed)

    def resize(self, num_blocks: int, copy: Callable[[Moves], None]) -> Moves:
        """Have so many blocks, at least those in use: returns where blocks beyond them went. Newer cached ones stay.

        `copy` is called with these moves when their places may be written. Users then know their blocks by the new ids.
        """
        if num_blocks >= self.num_blocks:
            for block_id in reversed(range(self.num_blocks, num_blocks)):
                self._free[block_id] = None
                self._free.move_to_end(block_id, last=False)
            self._num_users += [0] * (num_blocks - self.num_blocks)
            self._hashes += [None] * (num_blocks - self.num_blocks)
            self.num_blocks = num_blocks
            return {}
        cached = [block_id for block_id in self._free if self._hashes[block_id] is not None]
        cached = cached[max(0, len(cached) - (num_blocks - self.num_used)) :]
        places = dict.fromkeys(self._free.keys() - set(cached))
        self.evict(places)
        staying = [block_id for block_id in range(self.num_blocks) if block_id not in places]
        holes = (block_id for block_id in range(num_blocks) if block_id in places)
        moves = dict(zip((block_id for block_id in staying if block_id >= num_blocks), holes, strict=False))
        copy(moves)
        for old, new in moves.items():
            self._move(old, new)
        unused = places.keys() - set(moves.values())
        left = [block_id for block_id in range(num_blocks) if block_id in unused]
        self._free = OrderedDict.fromkeys([*left, *(moves.get(block_id, block_id) for block_id in cached)])
        del self._num_users[num_blocks:], self._hashes[num_blocks:]
        self.num_blocks = num_blocks
        return moves

    def _move(self, old: int, new: int) -> None:
        """The content of a block is in an unused one now, which takes its place."""
        self._journal.move(old, new)
        self._num_users[new] = self._num_users[old]
        block_hash = self._hashes[new] = self._hashes[old]
        if block_hash is not None:
            self._block_of[block_hash] = new


def chain_hash(previous: bytes, token_ids: list[int]) -> bytes:
    """Hash of a full block's tokens and of all tokens before them."""
    return hashlib.sha256(previous + array("q", token_ids).tobytes()).digest()


def chain_root(cache_salt: str) -> bytes:
    """Start of a chain. Blocks are shared only within one salt, so that no caller can probe another's prompts."""
    return hashlib.sha256(cache_salt.encode()).digest()
