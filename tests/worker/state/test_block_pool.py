"""Blocks are shared by content, evicted oldest first, and never lost."""

from hypothesis import given
from hypothesis import strategies as st

from worker.state.block_pool import BlockPool, chain_hash, chain_root


def test_a_freed_block_is_found_until_it_is_allocated_again() -> None:
    pool = BlockPool(2)
    block_ids = pool.allocate(1)
    pool.cache(block_ids[0], b"a")
    pool.free(block_ids)
    assert pool.find([b"a", b"b"]) == block_ids
    pool.allocate(1)  # takes the block that is not cached
    assert pool.find([b"a"]) == block_ids
    pool.allocate(1)
    assert pool.find([b"a"]) == []


def test_the_least_recently_used_goes_first_and_ends_of_chains_before_their_beginnings() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2), pool.allocate(2)
    for block_id, name in zip(first + second, [b"a0", b"a1", b"b0", b"b1"], strict=True):
        pool.cache(block_id, name)
    pool.free(second)
    pool.free(first)
    pool.allocate(1)
    assert (pool.find([b"b0", b"b1"]), pool.find([b"a0", b"a1"])) == (second[:1], first)


def test_a_shared_block_is_free_only_without_users() -> None:
    pool = BlockPool(1)
    block_ids = pool.allocate(1)
    pool.cache(block_ids[0], b"a")
    pool.take(pool.find([b"a"]))
    pool.free(block_ids)
    assert pool.num_free == 0
    pool.free(block_ids)
    assert pool.num_free == 1


def test_hashes_depend_on_the_salt_and_on_all_earlier_tokens() -> None:
    assert chain_hash(chain_root("a"), [1, 2]) != chain_hash(chain_root("b"), [1, 2])
    assert chain_hash(chain_hash(chain_root(""), [1]), [2]) != chain_hash(chain_hash(chain_root(""), [3]), [2])


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=40))
def test_after_any_allocations_every_block_is_free_or_used_once(actions: list[tuple[bool, int]]) -> None:
    pool = BlockPool(8)
    held: list[list[int]] = []
    for takes, num in actions:
        if takes and num <= pool.num_free:
            held.append(pool.allocate(num))
            for block_id in held[-1]:
                pool.cache(block_id, bytes([block_id]))
        elif held:
            pool.free(held.pop(0))
    used = [block_id for block_ids in held for block_id in block_ids]
    assert len(set(used)) == len(used) == pool.num_blocks - pool.num_free


@given(st.lists(st.tuples(st.sampled_from(["take", "free", "resize"]), st.integers(1, 12)), max_size=40))
def test_through_any_resizes_blocks_keep_their_content_their_users_and_their_hashes(
    actions: list[tuple[str, int]],
) -> None:
    pool = BlockPool(8)
    content: dict[int, bytes] = {}  # by block id
    held: list[tuple[list[int], list[bytes]]] = []
    known: dict[bytes, bytes] = {}

    def copy(moves: dict[int, int]) -> None:
        assert not moves.keys() & moves.values()
        for old, new in moves.items():
            content[new] = content[old]

    for number, (action, num) in enumerate(actions):
        if action == "take" and num <= pool.num_free:
            block_ids = pool.allocate(num)
            contents = [b"%d %d" % (number, at) for at in range(num)]
            for block_id, text in zip(block_ids, contents, strict=True):
                content[block_id] = known[text] = text
                pool.cache(block_id, text)
            held.append((block_ids, contents))
        elif action == "free" and held:
            pool.free(held.pop(0)[0])
        elif action == "resize" and num >= pool.num_used:
            cached = sum(bool(pool.find([text])) for text in known)
            moves = pool.resize(num, copy)
            held = [([moves.get(block_id, block_id) for block_id in ids], texts) for ids, texts in held]
            assert sum(bool(pool.find([text])) for text in known) == min(cached, num)
        for block_ids, contents in held:
            assert [content[block_id] for block_id in block_ids] == contents
            assert all(block_id < pool.num_blocks for block_id in block_ids)
        for text in known:
            assert all(content[block_id] == text for block_id in pool.find([text]))
        used = [block_id for block_ids, _ in held for block_id in block_ids]
        assert len(set(used)) == len(used) == pool.num_used and pool.num_used + pool.num_free == pool.num_blocks
