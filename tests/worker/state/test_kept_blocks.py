"""What a worker leaves of its KV cache, and what a successor makes of it."""

import pytest
import torch

from worker.kept.keep import Keep
from worker.state.block_pool import chain_hash, chain_root
from worker.state.kept_blocks import MOST_FINDS, kept_blocks
from worker.state.kv_cache import KVCache, LayerShape, pool_bytes

SHAPES = [LayerShape(2, 32, 32)]
CPU = torch.device("cpu")
FORM = b"f" * 32
HASHES = [chain_hash(chain_root("salt"), [number]) for number in range(16)]


def cache_of(keep: Keep, num_blocks: int = 8, capacity: int = 8, form: bytes = FORM) -> KVCache:
    blocks = kept_blocks(keep, "kv:test", form, capacity, pool_bytes(SHAPES, capacity * 16, torch.float32))
    return KVCache(SHAPES, num_blocks, 16, torch.float32, CPU, capacity=capacity, kept=blocks)


def fill(cache: KVCache, numbers: range) -> list[int]:
    """Blocks that hold their numbers, committed."""
    block_ids = cache.pool.allocate(len(numbers))
    for block_id, number in zip(block_ids, numbers, strict=True):
        cache.keys[0][:, block_id] = cache.values[0][:, block_id] = number
        cache.pool.keep(block_id, HASHES[number])
    return block_ids


def known(cache: KVCache) -> set[int]:
    """The numbers of the blocks that are found. All hold what they should."""
    found = {number: cache.pool.find([block_hash]) for number, block_hash in enumerate(HASHES)}
    for number, block_ids in found.items():
        assert all((pool[:, block_ids] == number).all() for pool in cache.keys + cache.values)
    return {number for number, block_ids in found.items() if block_ids}


def test_a_successor_finds_committed_blocks_and_no_others() -> None:
    keep = Keep.none()
    cache = cache_of(keep)
    fill(cache, range(1, 4))
    (shared,) = cache.pool.allocate(1)
    cache.pool.cache(shared, HASHES[9])  # its step is not committed
    successor = cache_of(keep)
    assert known(successor) == {1, 2, 3} and successor.pool.num_free == 8


def test_a_block_is_forgotten_before_it_is_written_again() -> None:
    keep = Keep.none()
    cache = cache_of(keep)
    cache.pool.free(fill(cache, range(1, 9)))
    cache.pool.allocate(3)
    assert len(known(cache_of(keep))) == 5


def test_in_a_smaller_cache_those_stay_that_were_in_use_and_used_last() -> None:
    keep = Keep.none()
    cache = cache_of(keep)
    first, second, third = (fill(cache, numbers) for numbers in (range(1, 3), range(3, 5), range(5, 9)))
    cache.pool.free(second)
    cache.pool.free(third)
    assert known(cache_of(keep, num_blocks=5)) == {1, 2, 5, 6, 7}  # ends of chains go first
    assert known(cache_of(keep)) == {1, 2, 5, 6, 7}
    assert first == [0, 1]


def test_blocks_that_were_moved_are_found_where_they_are() -> None:
    keep = Keep.none()
    cache = cache_of(keep)
    cache.pool.free(fill(cache, range(1, 5)))
    held = fill(cache, range(5, 9))
    moves = cache.pool.resize(5, cache.move)
    assert [moves.get(block_id, block_id) for block_id in held] == [4, 1, 2, 3]
    assert known(cache_of(keep)) == {1, 5, 6, 7, 8}


def test_a_cache_of_another_form_is_not_taken_over() -> None:
    keep = Keep.none()
    fill(cache_of(keep), range(1, 4))
    assert known(cache_of(keep, form=b"g" * 32)) == set()
    assert known(cache_of(keep, num_blocks=8, capacity=16)) == set()


@pytest.mark.parametrize("is_used", [False, True])
def test_blocks_that_two_workers_found_and_never_used_before_they_died_are_dropped(*, is_used: bool) -> None:
    keep = Keep.none()
    fill(cache_of(keep), range(1, 4))
    for _ in range(MOST_FINDS):
        successor = cache_of(keep)
        assert known(successor) == {1, 2, 3}
        if is_used and successor.kept is not None:
            successor.kept.proved()
    assert known(cache_of(keep)) == ({1, 2, 3} if is_used else set())


def test_a_dropped_cache_is_found_by_nobody() -> None:
    keep = Keep.none()
    cache = cache_of(keep)
    fill(cache, range(1, 4))
    cache.drop()
    assert known(cache_of(keep)) == set() and known(cache) == {1, 2, 3}
