"""KV memory changes its size while answers are written, and nobody can tell."""

from dataclasses import replace

import pytest

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.engine.engine import Engine

PLAIN = replace(SMALL, dtype="float32", max_model_len=96)
MODES = {"in-turn": PLAIN, "overlapped": replace(PLAIN, overlap=True), "drafted": replace(PLAIN, speculate=4)}
NUM_TOKENS = 40


def fill(bench: Bench) -> None:
    """Two requests with one prefix, one with three choices, one that repeats itself; an ended one was first."""
    bench.add("old", prompt_of(60, 9), max_tokens=2)
    bench.finish()
    shared = prompt_of(33)
    bench.add("a", [*shared, 5], max_tokens=NUM_TOKENS, ignore_eos=True)
    bench.add("b", [*shared, 6], max_tokens=NUM_TOKENS, ignore_eos=True, temperature=0.9, seed=3)
    bench.add("n", prompt_of(20, 2), max_tokens=NUM_TOKENS, n=3, ignore_eos=True, temperature=1.0, seed=4)
    bench.add("r", prompt_of(8, 3) * 4, max_tokens=NUM_TOKENS, ignore_eos=True)


def answers(bench: Bench) -> dict[str, list[int]]:
    bench.finish()
    found = {name: bench.token_ids(name) for name in "abr"}
    return found | {f"n{index}": bench.token_ids("n", index) for index in range(3)}


def resize(engine: Engine, num_blocks: int) -> int:
    """Returns the number of blocks that there are then."""
    return engine.resize_kv(engine.sizing._limits.kv_bytes(num_blocks)) // engine.sizing._limits.bytes_per_block


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(model_folder: ModelFolder, mode: str) -> dict[str, list[int]]:
    bench = Bench(model_folder(), MODES[mode])
    fill(bench)
    return answers(bench)


@pytest.mark.parametrize("num_steps", [3, 12, 25])
def test_after_shrinking_and_growing_the_tokens_are_the_same(
    num_steps: int, model_folder: ModelFolder, mode: str, undisturbed: dict[str, list[int]]
) -> None:
    bench = Bench(model_folder(), MODES[mode])
    engine, cache = bench.engine, bench.engine.runner.kv_cache
    fill(bench)
    bench.step(num_steps)
    num_used = cache.pool.num_used
    highest = max(block_id for sequence in engine.scheduler.running for block_id in sequence.block_ids)
    assert highest >= num_used  # some are moved
    assert resize(engine, num_used) == num_used == cache.pool.num_used
    bench.step(2)
    assert resize(engine, 10**9) == cache.capacity
    bench.step(2)
    resize(engine, cache.pool.num_used + 1)
    bench.step(2)
    resize(engine, 10**9)
    assert answers(bench) == undisturbed
    assert cache.pool.num_used == 0


def test_below_what_is_in_use_the_youngest_are_preempted_and_their_tokens_are_the_same(
    model_folder: ModelFolder, mode: str, undisturbed: dict[str, list[int]]
) -> None:
    bench = Bench(model_folder(), MODES[mode])
    engine, cache = bench.engine, bench.engine.runner.kv_cache
    fill(bench)
    bench.step(14)
    oldest = engine.scheduler.running[0]
    assert resize(engine, 0) == 96 // cache.block_size < cache.capacity
    assert engine.stats().num_preemptions > 0 and engine.scheduler.running[0] is oldest
    assert answers(bench) == undisturbed
    demand = engine.take_kv_demand()
    assert demand.least_bytes == engine.kv_bytes and demand.num_preemptions > 0
    assert engine.take_kv_demand().num_preemptions == 0


def test_prefixes_stay_cached_as_far_as_there_is_room(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), PLAIN)
    for name, seed in (("old", 1), ("new", 2)):
        bench.add(name, prompt_of(49, seed), max_tokens=1)
        bench.finish()
    resize(bench.engine, 6)
    bench.add("again", prompt_of(49, 2), max_tokens=1)
    bench.finish()
    assert bench.end("again").cached_tokens == 48  # type: ignore[union-attr]


def test_memory_of_blocks_that_are_given_up_goes_back(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), replace(PLAIN, max_model_len=None, max_num_seqs=4))
    engine, cache = bench.engine, bench.engine.runner.kv_cache
    for seed in range(20):
        bench.add(f"{seed}", prompt_of(200, seed), max_tokens=1)
    bench.finish()
    num_blocks = resize(engine, 0)
    given_up = [head[num_blocks:] for pool in cache.keys + cache.values for head in pool]
    page_blocks = -(-4096 // given_up[0][0].nbytes)  # a page that holds a block that stays, stays
    assert all(not part[page_blocks:].any() for part in given_up) and cache.capacity > num_blocks + page_blocks
    assert any(head[:num_blocks].any() for pool in cache.keys for head in pool)


def test_a_cache_whose_memory_cannot_go_back_keeps_its_size(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(), PLAIN)
    engine, before = bench.engine, bench.engine.kv_bytes
    monkeypatch.setattr(type(engine.runner.kv_cache), "is_elastic", False)  # as on a GPU, and over several ranks
    assert engine.resize_kv(0) == engine.resize_kv(10**15) == engine.kv_bytes == before
    demand = engine.take_kv_demand()
    assert demand.least_bytes == demand.most_bytes == before
