"""KV is computed once and shared, preemption changes no answer, and running sequences never wait for new ones."""

from dataclasses import replace

import pytest

from common.wire import Finished
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.engine.reading import FIRST_TOKENS, LEAST_TOKENS, Reading
from worker.runners.limits import Limits

BLOCK = 16
TIGHT = replace(SMALL, max_model_len=64, max_step_tokens=64)
BYTES_PER_BLOCK = 2 * (2 * 2 * 8) * 4 * BLOCK  # layers x (keys and values x heads x width) x float32 x tokens


def tight_bench(model_folder: ModelFolder, num_blocks: int) -> Bench:
    """An engine with KV memory for this many blocks."""
    bench = Bench(model_folder(), replace(TIGHT, kv_memory_bytes=num_blocks * BYTES_PER_BLOCK))
    assert bench.engine.stats().kv_blocks_total == num_blocks
    return bench


def cached(bench: Bench, request_id: str) -> int:
    end = bench.end(request_id)
    assert isinstance(end, Finished)
    return end.cached_tokens


def test_a_second_turn_computes_only_what_is_new(bench: Bench) -> None:
    prompt = prompt_of(40)
    bench.add("first", prompt, max_tokens=30)
    bench.finish()
    again = prompt + bench.token_ids("first") + prompt_of(5)
    bench.add("second", again, max_tokens=8)
    bench.finish()
    assert cached(bench, "first") == 0
    assert cached(bench, "second") == (40 + 30) // BLOCK * BLOCK - (BLOCK if (40 + 29) // BLOCK < 70 // BLOCK else 0)
    assert bench.token_ids("second") == bench.generate(again, 8)


def test_the_same_prompt_again_leaves_one_block_to_compute(bench: Bench) -> None:
    for request_id in ("a", "b"):
        bench.add(request_id, prompt_of(2 * BLOCK))
        bench.finish()
    assert (cached(bench, "a"), cached(bench, "b")) == (0, BLOCK)
    assert bench.token_ids("a") == bench.token_ids("b")


def test_prompts_are_not_shared_between_salts(bench: Bench) -> None:
    for salt in ("alice", "bob"):
        bench.add(salt, prompt_of(40), cache_salt=salt)
        bench.finish()
    assert cached(bench, "bob") == 0


def test_several_choices_share_the_prompt_and_differ_as_alone(bench: Bench) -> None:
    bench.add("three", prompt_of(40), n=3, temperature=1.0, seed=5)
    bench.finish()
    end = bench.end("three")
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.completion_tokens) == (40, sum(len(bench.token_ids("three", i)) for i in range(3)))
    assert len({tuple(bench.token_ids("three", index)) for index in range(3)}) == 3
    bench.add("one", prompt_of(40), n=1, temperature=1.0, seed=5)
    bench.finish()
    assert bench.token_ids("one") == bench.token_ids("three", 0)


def test_the_prompt_of_several_choices_goes_through_the_model_once(bench: Bench) -> None:
    bench.add("four", prompt_of(48), n=4, max_tokens=1)
    num_steps = 0
    while bench.engine.has_work:
        bench.step()
        num_steps += 1
    most = 3 + 3  # 48 tokens at 16 a step, then one block for each of the others
    assert num_steps <= most + bench.engine.overlaps  # the last step only reads


def test_when_memory_runs_out_the_youngest_waits_and_all_answers_stay_the_same(model_folder: ModelFolder) -> None:
    bench = tight_bench(model_folder, num_blocks=7)
    bench.engine.scheduler.forecast.answers.share = 0.0  # it expects short answers, and is wrong
    for seed in range(3):
        bench.add(f"r{seed}", prompt_of(20, seed), max_tokens=40)
    seen = set()
    while bench.engine.has_work:
        bench.step()
        if num_preempted := bench.engine.stats().num_preempted:
            assert not bench.engine.has_room(1, 1)  # no request is admitted while sequences are preempted
        seen.add(num_preempted)
    assert seen >= {0, 1}
    assert bench.engine.stats().num_preemptions > 0
    for seed in range(3):
        assert bench.token_ids(f"r{seed}") == bench.generate(prompt_of(20, seed), 40)
    assert bench.engine.stats().kv_blocks_used == 0


def test_a_sequence_that_would_be_preempted_later_is_not_admitted(model_folder: ModelFolder) -> None:
    bench = tight_bench(model_folder, num_blocks=7)
    for seed in range(6):
        bench.add(f"r{seed}", prompt_of(20, seed), max_tokens=40)
    bench.finish()
    assert bench.engine.stats().num_preemptions == bench.engine.stats().recomputed_tokens == 0


def test_the_room_that_another_request_would_free_is_counted(model_folder: ModelFolder) -> None:
    bench = tight_bench(model_folder, num_blocks=5)
    bench.add("a", prompt_of(30), max_tokens=20)
    bench.step(2)
    assert not bench.engine.has_room(40, 1, 8)
    assert bench.engine.has_room(40, 1, 8, without=["a"])


def test_the_head_of_the_queue_is_not_overtaken_by_a_smaller_request(model_folder: ModelFolder) -> None:
    bench = tight_bench(model_folder, num_blocks=5)
    bench.add("long", prompt_of(34), max_tokens=20)
    bench.step()
    bench.add("big", prompt_of(50), max_tokens=2)
    bench.add("small", prompt_of(3), max_tokens=2)
    bench.finish()
    ends = [request_id for request_id, events in bench.events.items()]
    assert ends == ["long", "big", "small"]


def test_a_long_prompt_never_stalls_decodes(bench: Bench) -> None:
    bench.add("steady", prompt_of(3), max_tokens=30)
    bench.step(2)
    bench.add("long", prompt_of(150), max_tokens=2)
    for _ in range(9):
        before = len(bench.token_ids("steady"))
        bench.step()
        assert len(bench.token_ids("steady")) == before + 1
    assert not bench.token_ids("long")
    bench.finish()
    assert bench.token_ids("long") == bench.generate(prompt_of(150), 2)


def test_the_chunks_of_a_long_prompt_shrink_in_steps_with_decodes(bench: Bench) -> None:
    bench.engine.scheduler.reading.max_chunk_pairs = 8 * 60
    bench.add("steady", prompt_of(3), max_tokens=40)
    bench.step(2)
    bench.add("long", prompt_of(150), max_tokens=2)
    bench.step()
    long = bench.engine.scheduler.running[-1]
    while long.num_uncomputed > 15:
        before = long.num_computed
        bench.step()
        assert long.num_computed - before == min(
            15, 480 // (before + 1)
        )  # one token of each step is the other sequence's
    bench.finish()
    assert bench.token_ids("long") == bench.generate(prompt_of(150), 2)


def test_room_is_denied_when_places_or_memory_are_taken(model_folder: ModelFolder) -> None:
    bench = tight_bench(model_folder, num_blocks=5)
    assert bench.engine.has_room(1000, 99)  # an idle engine takes anything, if only to refuse it
    bench.add("a", prompt_of(30), max_tokens=2)
    bench.step()
    assert bench.engine.has_room(16, 1)
    assert not bench.engine.has_room(40, 1, 20)  # its prompt fits, not its answer
    assert not bench.engine.has_room(49, 1)
    assert not bench.engine.has_room(1, 8)


def test_there_is_room_as_long_as_the_next_step_is_not_full(bench: Bench) -> None:
    bench.add("a", prompt_of(7))
    assert bench.engine.has_room(1, 1)  # a step takes 16 tokens
    bench.add("b", prompt_of(9, seed=2))
    assert not bench.engine.has_room(1, 1)
    bench.step()
    assert bench.engine.has_room(1, 1)
    assert len(bench.engine.scheduler.running) == 2


def test_a_cancelled_request_gets_no_events_and_its_memory_is_free_at_once(bench: Bench) -> None:
    bench.add("gone", prompt_of(20), n=2)
    bench.add("stays", prompt_of(5), max_tokens=4)
    bench.step(4)
    bench.engine.cancel("gone")
    said = len(bench.events.get("gone", []))
    bench.finish()
    assert len(bench.events.get("gone", [])) == said
    assert bench.token_ids("stays") == bench.generate(prompt_of(5), 4)
    assert bench.engine.stats().kv_blocks_used == 0


def test_a_step_takes_more_tokens_while_many_prompts_wait(bench: Bench) -> None:
    """A lone prompt, however long, is computed in steps of the usual size."""
    scheduler = bench.engine.scheduler
    scheduler.reading.max_burst_tokens = 32
    bench.add("long", prompt_of(60), max_tokens=1)
    assert sum(row.num_tokens for row in scheduler.schedule()) == 16
    for request_id in ("second", "third"):
        bench.add(request_id, prompt_of(10, seed=2), cache_salt=request_id, max_tokens=1)
    assert sum(row.num_tokens for row in scheduler.schedule()) == 32


def test_a_short_prompt_does_not_wait_for_a_long_one_that_is_being_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a step is for it, the other half goes on with the long one; and it is claimed while that is read."""
    bench.add("long", prompt_of(150), max_tokens=2)
    bench.step()
    assert bench.engine.has_room(3, 1) and not bench.engine.has_room(100, 1)
    bench.add("behind", prompt_of(100), max_tokens=1)
    bench.add("short", prompt_of(20), max_tokens=5)
    long, before = bench.engine.scheduler.running[0], bench.engine.scheduler.running[0].num_computed
    bench.step()
    assert long.num_computed - before == 8
    bench.step(4)
    assert bench.token_ids("short") and not bench.token_ids("long")
    bench.finish()
    assert list(bench.events) == ["short", "long", "behind"]
    assert bench.token_ids("short") == bench.generate(prompt_of(20), 5)
    assert bench.token_ids("long") == bench.generate(prompt_of(150), 2)
    bench.events.clear()
    monkeypatch.setattr("worker.engine.reading.QUICK", 10**9)  # the control
    bench.add("again", prompt_of(150, seed=2), max_tokens=2)
    bench.add("other", prompt_of(20, seed=2), max_tokens=5)
    assert not bench.engine.has_room(3, 1)
    bench.finish()
    assert list(bench.events) == ["again", "other"]


def test_a_short_prompt_overtakes_another_only_where_that_fits_all_the_same(model_folder: ModelFolder) -> None:
    bench = tight_bench(model_folder, num_blocks=5)
    bench.engine.scheduler.reading.max_step_tokens = 16
    bench.add("long", prompt_of(40), max_tokens=2)
    bench.step()
    bench.add("big", prompt_of(50), max_tokens=2)
    bench.add("small", prompt_of(3), max_tokens=2)
    bench.finish()
    assert list(bench.events) == ["long", "small", "big"]  # where that is read, the small one has room beside it


def test_steps_read_as_many_tokens_as_take_a_bounded_time() -> None:
    """On a machine that takes 50 ms a token, a second for what a step takes in any case, and later half of that."""
    limits = Limits(8, 512, 4096, 10**9, 10**6, 100, 16)
    timed, free = (Reading(limits, is_timed=is_timed) for is_timed in (True, False))
    assert timed.most(512, is_alone=False) == FIRST_TOKENS and timed.most(40, is_alone=True) == 40
    for base_s, per_token_s, bound_s, is_alone in ((0.1, 0.05, 1, False), (0.1, 0.05, 4, True), (0.2, 0.001, 1, False)):
        for _ in range(20):
            num = timed.most(512, is_alone=is_alone)
            timed.note(num, base_s + num * per_token_s)
            free.note(512, 100.0)
        assert num in (512, LEAST_TOKENS) or base_s + num * per_token_s <= 1.05 * bound_s
        assert num == 512 or base_s + (num + 3) * per_token_s >= bound_s
    assert free.most(512, is_alone=False) == 512
    timed.note(3, 0.1)  # mostly what a step takes in any case
    assert timed.most(512, is_alone=False) == 512
    timed.note(512, 100.0)
    assert timed.most(512, is_alone=False) == LEAST_TOKENS
