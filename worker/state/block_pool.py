"""Which KV blocks are free, used and cached: bookkeeping only, no tensors.

A free block keeps its content and can be found by its hash until it is allocated again, least recently used first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable


class BlockPool:
    """Counts the users of each block and finds blocks by the hash of their tokens and all earlier ones."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_users = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._free = OrderedDict.fromkeys(range(num_blocks))  # oldest first

    @property
    def num_free(self) -> int:
        return len(self._free)

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
        for block_id in block_ids:
            self._num_users[block_id] += 1
            self._free.pop(block_id, None)

    def allocate(self, num_blocks: int) -> list[int]:
        """Blocks to write into, evicted from the cache. The caller has checked `num_free`."""
        block_ids = [self._free.popitem(last=False)[0] for _ in range(num_blocks)]
        self.evict(block_ids)
        for block_id in block_ids:
            self._num_users[block_id] = 1
        return block_ids

    def evict(self, block_ids: Iterable[int]) -> None:
        """Make these blocks impossible to find."""
        for block_id in block_ids:
            block_hash = self._hashes[block_id]
            if block_hash is not None:
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

    def free(self, block_ids: list[int]) -> None:
        """Remove a user. The last block of a chain becomes free first, so that prefixes stay cached longest."""
        for block_id in reversed(block_ids):
            self._num_users[block_id] -= 1
            if self._num_users[block_id] == 0:
                self._free[block_id] = None
                if self._hashes[block_id] is None:  # not cached: allocate it next
                    self._free.move_to_end(block_id, last=False)


def chain_hash(previous: bytes, token_ids: list[int]) -> bytes:
    """Hash of a full block's tokens and of all tokens before them."""
    return hashlib.sha256(previous + array("q", token_ids).tobytes()).digest()


def chain_root(cache_salt: str) -> bytes:
    """Start of a chain. Blocks are shared only within one salt, so that no caller can probe another's prompts."""
    return hashlib.sha256(cache_salt.encode()).digest()
