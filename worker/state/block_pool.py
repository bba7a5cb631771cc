"""Which KV blocks are free, shared, or remembered: bookkeeping only, no tensors.

A block that nobody uses keeps its content, known by its hash, until the room is needed: least recently used goes first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable


class BlockPool:
    """Counts the users of each of `num_blocks` blocks and finds blocks by the hash of their tokens and all before."""

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
        """The blocks that hold the longest known beginning of this chain."""
        found = []
        for block_hash in hashes:
            block_id = self._block_of.get(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def num_unused(self, block_ids: Iterable[int]) -> int:
        """How many of these are free now, and would no longer be if they were taken."""
        return sum(block_id in self._free for block_id in block_ids)

    def take(self, block_ids: Iterable[int]) -> None:
        """Share blocks that were found."""
        for block_id in block_ids:
            self._num_users[block_id] += 1
            self._free.pop(block_id, None)

    def allocate(self, num_blocks: int) -> list[int]:
        """Blocks to write into; what they remembered is forgotten. The caller has checked `num_free`."""
        block_ids = [self._free.popitem(last=False)[0] for _ in range(num_blocks)]
        self.forget(block_ids)
        for block_id in block_ids:
            self._num_users[block_id] = 1
        return block_ids

    def forget(self, block_ids: Iterable[int]) -> None:
        """Nobody shall find these blocks any more."""
        for block_id in block_ids:
            forgotten = self._hashes[block_id]
            if forgotten is not None:
                del self._block_of[forgotten]
                self._hashes[block_id] = None

    def exclusive(self, block_ids: Iterable[int]) -> list[int]:
        """Those of the blocks that have one user only."""
        return [block_id for block_id in block_ids if self._num_users[block_id] == 1]

    def remember(self, block_id: int, block_hash: bytes) -> None:
        """The block is full and computed: others may share it. The first block of this content stays the known one."""
        if block_hash not in self._block_of and self._hashes[block_id] is None:
            self._block_of[block_hash] = block_id
            self._hashes[block_id] = block_hash

    def release(self, block_ids: list[int]) -> None:
        """One user less. The end of a chain becomes free before its beginning, so that beginnings live longer."""
        for block_id in reversed(block_ids):
            self._num_users[block_id] -= 1
            if self._num_users[block_id] == 0:
                self._free[block_id] = None
                if self._hashes[block_id] is None:  # nothing worth keeping: use it next
                    self._free.move_to_end(block_id, last=False)


def chain_hash(previous: bytes, token_ids: list[int]) -> bytes:
    """The name of a full block: its tokens and everything before them."""
    return hashlib.sha256(previous + array("q", token_ids).tobytes()).digest()


def chain_root(cache_salt: str) -> bytes:
    """Where a chain begins. Blocks are shared only within one salt, so that nobody can probe another's prompts."""
    return hashlib.sha256(cache_salt.encode()).digest()
