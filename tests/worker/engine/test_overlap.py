"""Overlapped steps give the same tokens, and Python waits for a step only after the next one is launched."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from common.wire import Finished
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.engine import step as step_module
from worker.sampling.grammar import GrammarCompiler
from worker.sampling.sampler import PendingSamples
from worker.state.sequence import Sequence

OVERLAPPED = replace(SMALL, overlap=True)
SEEDS = (5, 9, 15, 20)  # of decks that preempt sequences and take tokens back
GRAMMAR = '{"grammars": [{"lark_grammar": "start: /[a-z]{1,6}/"}]}'
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.2},
    {"temperature": 1.0, "top_p": 0.8, "top_k": 40},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.0, "presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    {"temperature": 1.0, "logit_bias": ((7, 5.0),), "min_tokens": 4},
    {"temperature": 1.5, "stop": ("zz", "th")},
    {"logprobs": 3},
    {"temperature": 1.0, "n": 3},
    {"temperature": 1.0, "grammar": GRAMMAR},
)


def deck(seed: int) -> list[tuple[int, str, list[int], dict[str, Any]]]:
    """Requests of all kinds: (step before which it arrives, id, prompt, sampling parameters)."""
    chance = random.Random(seed)
    requests = []
    for at in range(16):
        sampling = chance.choice(SAMPLINGS) | {
            "seed": at,
            "max_tokens": chance.choice((1, 30, 40, 60)),
            "ignore_eos": at % 2 == 0,
        }
        requests.append(
            (chance.randrange(20), f"r{at}", prompt_of(chance.randint(1, 24), chance.randint(1, 3)), sampling)
        )
    return sorted(requests, key=lambda request: request[0])


def answers(bench: Bench, seed: int, gone: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Each request's usage, tokens and text by choice, and finish reasons. Requests in `gone` are cancelled early."""
    waiting, step = deck(seed), 0
    while waiting or bench.engine.has_work:
        while waiting and waiting[0][0] <= step:
            _, name, prompt, sampling = waiting.pop(0)
            bench.add(name, prompt, **sampling)
        if step == 20:
            for name in gone:
                bench.engine.cancel(name)
        bench.step()
        step += 1
    found: dict[str, Any] = {}
    for name in bench.events.keys() - gone:
        end = bench.end(name)
        assert isinstance(end, Finished)
        choices = {event.index: bench.deltas(name, event.index) for event in bench.events[name][:-1]}  # type: ignore[union-attr]
        found[name] = (
            end.prompt_tokens,
            end.completion_tokens,
            {index: (bench.token_ids(name, index), bench.text(name, index)) for index in choices},
            {index: deltas[-1].finish_reason for index, deltas in choices.items()},
            [item.token_id for delta in choices[0] for item in delta.logprobs],
        )
    return found


def with_grammars(folder: Any, config: Any) -> Bench:
    plain = Bench(folder, config)
    card = plain.loaded.card
    return Bench(folder, config, GrammarCompiler(plain.loaded.tokenizer, card.eos_token_ids, card.vocab_size))


@pytest.fixture
def taken_back(monkeypatch: pytest.MonkeyPatch) -> list[Sequence]:
    """The sequences whose pending token was taken back, in order."""
    seen: list[Sequence] = []
    take_back = Sequence.take_back

    def noted(sequence: Sequence) -> None:
        seen.append(sequence)
        take_back(sequence)

    monkeypatch.setattr(Sequence, "take_back", noted)
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_every_request_gets_the_same_answer_as_without_overlap(
    seed: int, model_folder: ModelFolder, taken_back: list[Sequence]
) -> None:
    """Memory is short, so that sequences are preempted with a token in flight; some requests are cancelled."""
    tight = replace(SMALL, max_model_len=64, kv_memory_bytes=2 * (2 * 2 * 8) * 4 * 16 * 7)
    benches = [with_grammars(model_folder(), replace(tight, overlap=overlaps)) for overlaps in (False, True)]
    for bench in benches:
        bench.engine.scheduler.forecast.answers.share = 0.0
    gone = frozenset(f"r{at}" for at in range(seed % 2, 16, 5))
    in_turn, overlapped = (answers(bench, seed, gone) for bench in benches)
    assert overlapped == in_turn
    stats = benches[1].engine.stats()
    assert stats.num_preemptions > 0 and stats.kv_blocks_used == 0
    assert len(taken_back) > 0
    assert len(set(taken_back)) == len(taken_back)  # at most once per sequence


@pytest.mark.parametrize(("overlaps", "order"), [(True, "forward forward read"), (False, "forward read forward")])
def test_the_next_forward_pass_starts_before_the_last_tokens_are_read(
    overlaps: bool, order: str, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(), replace(SMALL, overlap=overlaps))
    seen: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            seen.append(name)
            return function(*args)

        return noted

    monkeypatch.setattr(bench.engine.runner, "forward", noting("forward", bench.engine.runner.forward))
    monkeypatch.setattr(PendingSamples, "read", noting("read", PendingSamples.read))
    bench.add("r", prompt_of(5), max_tokens=6, ignore_eos=True)
    bench.finish()
    assert " ".join(seen[:3]) == order
    assert seen.count("forward") == seen.count("read") == 6  # none for a token past the last


def test_a_long_prompt_alone_is_at_most_one_step_ahead_of_its_reading(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(), OVERLAPPED)
    forward, read, ahead = bench.engine.runner.forward, PendingSamples.read, [0]

    def launched(rows: Any, sampled: Any = None) -> torch.Tensor:
        ahead.append(ahead[-1] + 1)
        return forward(rows, sampled)

    def was_read(samples: PendingSamples) -> Any:
        ahead.append(ahead[-1] - 1)
        return read(samples)

    monkeypatch.setattr(bench.engine.runner, "forward", launched)
    monkeypatch.setattr(PendingSamples, "read", was_read)
    bench.add("r", prompt_of(200), max_tokens=2, ignore_eos=True)
    bench.finish()
    assert max(ahead) == 2 and ahead[-1] == 0
    assert bench.token_ids("r") == bench.generate(prompt_of(200), 2)


def test_a_stop_token_costs_one_extra_row_and_no_extra_token(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), OVERLAPPED)
    expected = bench.generate(prompt_of(9))
    bench.add("r", prompt_of(9), stop_token_ids=(expected[4],))
    bench.finish()
    assert bench.token_ids("r") == expected[: expected.index(expected[4]) + 1]
    assert bench.deltas("r")[-1].finish_reason == "stop"
    assert bench.engine.stats().kv_blocks_used == 0


def test_choices_share_a_prompt_that_is_still_in_flight(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(), replace(OVERLAPPED, max_step_tokens=64))
    forward, seen = bench.engine.runner.forward, []

    def noted(rows: Any, sampled: Any = None) -> torch.Tensor:
        seen.extend(row.num_tokens for row in rows)
        return forward(rows, sampled)

    monkeypatch.setattr(bench.engine.runner, "forward", noted)
    bench.add("r", prompt_of(48), n=4, max_tokens=1)
    bench.finish()
    assert seen == [48, 16, 16, 16]


def test_a_cancelled_request_that_returns_under_its_id_gets_no_token_twice(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), OVERLAPPED)
    bench.add("r", prompt_of(9))
    bench.step(4)
    bench.engine.cancel("r")
    bench.events.clear()
    bench.add("r", prompt_of(12))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(12))


@pytest.mark.parametrize("place", ["forward", "sample"])
def test_the_rows_of_a_step_that_fails_in_flight_are_computed_alone(
    place: str, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third pass over several rows fails; over one row it works."""
    bench = Bench(model_folder(), OVERLAPPED)
    times = iter(range(100))
    num_broken = 0

    def at_times_broken(function: Callable[..., Any], num_rows: Callable[..., int]) -> Callable[..., Any]:
        def broken(*args: Any, **kwargs: Any) -> Any:
            nonlocal num_broken
            if num_rows(*args) > 1 and next(times) % 3 == 1:
                num_broken += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return function(*args, **kwargs)

        return broken

    if place == "forward":
        broken = at_times_broken(bench.engine.runner.forward, lambda rows, sampled=None: len(rows))
        monkeypatch.setattr(bench.engine.runner, "forward", broken)
    else:
        broken = at_times_broken(step_module.sample, lambda logits, sequences, *_: len(sequences))
        monkeypatch.setattr(step_module, "sample", broken)
    for num_tokens in (3, 40, 17):
        bench.add(f"r{num_tokens}", prompt_of(num_tokens))
    bench.finish()
    assert num_broken > 2
    for num_tokens in (3, 40, 17):
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens))


def test_steps_overlap_only_on_a_gpu_unless_configured(model_folder: ModelFolder) -> None:
    assert not Bench(model_folder()).engine.overlaps
    assert not Bench(model_folder(), replace(OVERLAPPED, speculate=4)).engine.overlaps
    assert not Bench(model_folder("mamba"), OVERLAPPED).engine.overlaps


def test_a_single_row_that_fails_while_another_step_is_in_flight_is_computed_again(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step in flight may have caused it: its memory was still in use."""
    bench = Bench(model_folder(), OVERLAPPED)
    forward, broken = bench.engine.runner.forward, []

    def broken_once(rows: Any, sampled: Any = None) -> torch.Tensor:
        if sampled is not None and not broken:
            broken.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(rows, sampled)

    monkeypatch.setattr(bench.engine.runner, "forward", broken_once)
    bench.add("r", prompt_of(9))
    bench.finish()
    assert broken
    assert bench.token_ids("r") == bench.generate(prompt_of(9))


def test_a_first_token_that_is_taken_back_does_not_count_the_prompt_as_cached(
    model_folder: ModelFolder, taken_back: list[Sequence]
) -> None:
    bench = Bench(model_folder(), OVERLAPPED)
    bench.add("r", prompt_of(9), temperature=5.0, top_p=0.95)
    bench.step(2)
    assert taken_back
    bench.finish()
    end = bench.end("r")
    assert isinstance(end, Finished) and end.cached_tokens == 0
    assert bench.engine.stats().cached_tokens == 0
