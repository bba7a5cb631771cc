"""Models with states besides keys and values: many sequences in a step, each with its own state."""

from typing import Any

import pytest

from tests.models import HYBRID_FAMILIES
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.runners.hybrid import HybridRunner, States
from worker.runners.limits import choose_limits
from worker.state.kv_cache import LayerShape

LENGTHS = (3, 40, 17, 1, 9)  # one step takes 16 tokens, so two of these come in chunks


@pytest.fixture(params=HYBRID_FAMILIES)
def hybrid(request: pytest.FixtureRequest, model_folder: ModelFolder) -> Bench:
    return Bench(model_folder(request.param))


def runner_of(bench: Bench) -> HybridRunner:
    assert isinstance(bench.engine.runner, HybridRunner)
    return bench.engine.runner


def has_states(bench: Bench) -> bool:
    runner = runner_of(bench)
    return bool(runner._states or runner._together)


def test_greedy_tokens_equal_generate_alone_and_in_a_mixed_batch(hybrid: Bench) -> None:
    expected = {length: hybrid.generate(prompt_of(length)) for length in LENGTHS}
    hybrid.add("alone", prompt_of(17))
    hybrid.finish()
    assert hybrid.token_ids("alone") == expected[17]
    for length in LENGTHS:  # staggered: some decode while others prefill
        hybrid.add(f"r{length}", prompt_of(length))
        hybrid.step(3)
    hybrid.finish()
    assert {length: hybrid.token_ids(f"r{length}") for length in LENGTHS} == expected
    assert not has_states(hybrid)


def test_decoding_sequences_share_a_forward_pass(hybrid: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for length in LENGTHS:
        hybrid.add(f"r{length}", prompt_of(length))
    while (
        not all(sequence.is_decoding for sequence in hybrid.engine.scheduler.running) or hybrid.engine.scheduler.waiting
    ):
        hybrid.step()
    batches = []
    model = runner_of(hybrid).model
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: batches.append(given["input_ids"].shape) or forward(**given))
    hybrid.step(2)
    assert batches == [(len(LENGTHS), 1)] * 2


def test_states_are_computed_again_after_a_failed_step(hybrid: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {length: hybrid.generate(prompt_of(length)) for length in (9, 17)}
    for length in expected:
        hybrid.add(f"r{length}", prompt_of(length))
    hybrid.step(8)
    num_calls = 0
    update = States.update

    def failing(self: States, *given: Any, **named: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 1:
            raise RuntimeError("on purpose")
        return update(self, *given, **named)

    monkeypatch.setattr(States, "update", failing)
    hybrid.finish()
    assert num_calls > 1
    assert {length: hybrid.token_ids(f"r{length}") for length in expected} == expected


def test_a_preempted_sequence_is_computed_from_the_start(hybrid: Bench) -> None:
    expected = {length: hybrid.generate(prompt_of(length), 40) for length in (20, 30)}
    pool = hybrid.engine.runner.kv_cache.pool
    hybrid.engine.scheduler.forecast.answers.share = 0.0
    taken = pool.allocate(pool.num_free - 6)  # both prompts fit, both answers do not
    for length in expected:
        hybrid.add(f"r{length}", prompt_of(length), max_tokens=40)
    hybrid.finish()
    assert hybrid.engine.scheduler.num_preemptions > 0
    assert hybrid.engine.stats().recomputed_tokens > 20  # prefixes are not shared here
    assert {length: hybrid.token_ids(f"r{length}") for length in expected} == expected
    pool.free(taken)


def test_a_cancelled_sequence_does_not_affect_the_others(hybrid: Bench) -> None:
    expected = {length: hybrid.generate(prompt_of(length)) for length in (9, 17)}
    for length in (9, 3, 17):
        hybrid.add(f"r{length}", prompt_of(length))
    hybrid.step(8)
    hybrid.engine.cancel("r3")
    hybrid.finish()
    assert {length: hybrid.token_ids(f"r{length}") for length in expected} == expected
    assert not has_states(hybrid)


def test_memory_for_states_limits_the_sequences_of_a_step(model_folder: ModelFolder) -> None:
    loaded = Bench(model_folder("qwen3_next")).loaded
    shapes = [LayerShape(2, 16, 16)]
    most = choose_limits(loaded, SMALL, shapes, 1000, state_bytes=2**20)
    few = choose_limits(loaded, SMALL, shapes, 1000, state_bytes=2**27)
    assert (most.max_num_seqs, few.max_num_seqs) == (8, 2)  # of 1 GiB half, and each is there twice
