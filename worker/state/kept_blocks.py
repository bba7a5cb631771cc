"""Which blocks of a KV cache hold what, in memory that outlives this process.

A worker may be killed between any two instructions, and its successor believes what it finds here. So the order of
writes is the rule: a block's hash is written when its keys and values are computed and committed, and cleared before
they are written again. A hash that was written or cleared by half is nobody's.
"""

import mmap
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from worker.kept.keep import Keep
from worker.state.block_pool import HASH_BYTES
from worker.state.host_memory import PAGE, whole_pages

MAGIC = b"omni kv 1"
FORM_AT, FINDS_AT = 64, 128  # bytes of the header, which takes a page
MOST_FINDS = 2  # by workers that died before they had used a block of it: it may be what they died of
IN_USE = 2**64 - 1


def table_bytes(num_blocks: int) -> int:
    """Of the header, the hashes and the times of last use: where keys and values begin."""
    return PAGE + whole_pages(num_blocks * HASH_BYTES) + whole_pages(num_blocks * 8)


class KeptBlocks:
    """The table of one KV cache. `pages` begin with it."""

    def __init__(self, pages: mmap.mmap, num_blocks: int, drop: Callable[[], None] = lambda: None) -> None:
        """`drop`: let no successor find the pages."""
        self.pages = pages
        self.drop = drop
        uses_at = PAGE + whole_pages(num_blocks * HASH_BYTES)
        self._num_finds = np.frombuffer(pages, np.uint32, 1, offset=FINDS_AT)
        hashes = np.frombuffer(pages, np.uint8, num_blocks * HASH_BYTES, offset=PAGE)
        self._hashes = hashes.reshape(num_blocks, HASH_BYTES)
        self._uses = np.frombuffer(pages, np.uint64, num_blocks, offset=uses_at)
        self._now = 0  # counts uses

    def begin(self, form: bytes) -> None:
        """The pages are zeros: they are a table from now on. `form`: a hash of all that keys and values depend on."""
        self.pages[FORM_AT : FORM_AT + len(form)] = form
        self.pages[: len(MAGIC)] = MAGIC

    def take_over(self, form: bytes) -> bool:
        """Called by a successor; False if it must begin with other pages."""
        is_same = self.pages[: len(MAGIC)] == MAGIC and self.pages[FORM_AT : FORM_AT + len(form)] == form
        self._num_finds[0] += 1
        return is_same and bool(self._num_finds[0] <= MOST_FINDS)

    def proved(self) -> None:
        """A step that read blocks of a predecessor is committed: they are no worker's death."""
        self._num_finds[0] = 0

    @property
    def num_known(self) -> int:
        """The first blocks, among which are all that have a hash."""
        ids = np.flatnonzero(self._hashes.any(axis=1))
        return int(ids.max(initial=-1)) + 1

    def blocks(self) -> list[tuple[int, bytes]]:
        """Blocks with a hash, those first that were not in use for the longest time; those in use come last."""
        ids = np.flatnonzero(self._hashes.any(axis=1))
        times = self._uses[ids]
        self._now = int(times[times < IN_USE].max(initial=0))
        ordered = ids[np.argsort(times, kind="stable")]
        return [(int(block_id), self._hashes[block_id].tobytes()) for block_id in ordered]

    def write(self, block_id: int, block_hash: bytes) -> None:
        """The block's keys and values are computed and committed."""
        self._hashes[block_id] = np.frombuffer(block_hash, np.uint8)

    def clear(self, block_id: int) -> None:
        """The block may be written from now on."""
        self._hashes[block_id] = 0

    def move(self, old: int, new: int) -> None:
        """The content of one block has been copied to another, which has no hash."""
        self._uses[new] = self._uses[old]
        self._hashes[new] = self._hashes[old]
        self._hashes[old] = 0

    def hold(self, block_ids: Iterable[int]) -> None:
        """The blocks are in use."""
        self._uses[list(block_ids)] = IN_USE

    def release(self, block_ids: Iterable[int]) -> None:
        """They are no longer, the first ones for the longest time."""
        ids = list(block_ids)
        self._uses[ids] = np.arange(self._now + 1, self._now + 1 + len(ids), dtype=np.uint64)
        self._now += len(ids)


def kept_blocks(keep: Keep, name: str, form: bytes, num_blocks: int, num_bytes: int) -> KeptBlocks:
    """What a predecessor has left under this name, or zeros. `num_bytes`: of keys and values. Raises OSError."""
    total, drop = table_bytes(num_blocks) + num_bytes, partial(keep.drop, name)
    found = keep.find(name)
    if found is not None and found.num_bytes == total:
        blocks = KeptBlocks(found.map(), num_blocks, drop)
        if blocks.take_over(form):
            return blocks
    if found is not None:
        drop()
    memory = keep.create(name, total)
    blocks = KeptBlocks(memory.map(), num_blocks, drop)
    blocks.begin(form)
    keep.put(memory)
    return blocks
