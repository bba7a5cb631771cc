"""A draft model changes how many tokens a step gives and nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from common.wire import Finished
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.engine.test_overlap import GRAMMAR, answers, with_grammars
from tests.worker.engine.test_resume import log_of, run
from tests.worker.gpu_stand_ins import CountWaits
from worker.drafting import draft_model
from worker.drafting.choose import DraftFault
from worker.drafting.draft_model import DraftModel
from worker.drafting.lengths import Lengths
from worker.state.sequence import Sequence


def with_draft(folder: Path, draft: Path, **changes: Any) -> Bench:
    return Bench(folder, replace(SMALL, speculate=4, draft_model=str(draft), **changes))


def guesser_of(bench: Bench) -> DraftModel:
    guesser = bench.engine.drafter.guesser
    assert isinstance(guesser, DraftModel)
    return guesser


def acceptance(bench: Bench) -> float:
    return bench.engine.drafter.num_accepted / bench.engine.drafter.num_drafted


CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.0, "seed": 5},
    "truncated": {"temperature": 1.0, "top_p": 0.8, "top_k": 40, "seed": 3},
    "wide": {"temperature": 1.5, "top_p": 0.95, "seed": 3},
    "logprobs": {"temperature": 0.0, "logprobs": 3},
    "penalties": {"temperature": 0.0, "frequency_penalty": 0.4},
    "short": {"temperature": 0.0, "max_tokens": 3},
    "stop": {"temperature": 0.7, "stop": ("e", "a")},
    "choices": {"temperature": 1.0, "n": 3},
    "grammar": {"temperature": 1.0, "grammar": GRAMMAR},
    "end forbidden": {"temperature": 1.0, "logit_bias": ((0, 6.0),), "min_tokens": 9},
}


@pytest.mark.parametrize("seed", [0, 7], ids=["good", "bad"])
def test_tokens_text_and_usage_are_those_without_a_draft_model(seed: int, model_folder: ModelFolder) -> None:
    """The good draft model is the model itself, so that all guesses are right; of the bad one none is."""
    folder = model_folder()
    plain = with_grammars(folder, SMALL)
    draft = model_folder(seed=seed) if seed else folder
    guessing = with_grammars(folder, replace(SMALL, speculate=4, draft_model=str(draft)))
    for bench in (plain, guessing):
        for at, sampling in enumerate(CASES.values()):
            bench.add(f"r{at}", prompt_of(4 + 7 * at, at), **({"max_tokens": 40, "ignore_eos": at % 2 == 0} | sampling))
        bench.finish()
    for at in range(len(CASES)):
        for index in range(3):
            assert guessing.token_ids(f"r{at}", index) == plain.token_ids(f"r{at}", index)
            assert guessing.text(f"r{at}", index) == plain.text(f"r{at}", index)
        assert guessing.end(f"r{at}") == plain.end(f"r{at}")
        logprobs = [
            [item.logprob for delta in bench.deltas(f"r{at}") for item in delta.logprobs] for bench in (plain, guessing)
        ]
        assert logprobs[1] == pytest.approx(logprobs[0], abs=1e-4)
    assert acceptance(guessing) < 0.1 if seed else acceptance(guessing) > 0.95
    stats = guessing.engine.stats()
    assert stats.accepted_tokens / stats.draft_tokens == acceptance(guessing) and stats.draft_tokens > 200


@pytest.mark.parametrize("seed", [5, 15])
def test_requests_that_are_preempted_and_cancelled_get_the_same_answers(seed: int, model_folder: ModelFolder) -> None:
    """The draft model's cache is as short of memory as the model's."""
    folder = model_folder()
    tight = replace(SMALL, max_model_len=64, kv_memory_bytes=2 * (2 * 2 * 8) * 4 * 16 * 7)
    plain = with_grammars(folder, tight)
    twice = 2 * tight.kv_memory_bytes if tight.kv_memory_bytes else None
    guessing = with_grammars(folder, replace(tight, kv_memory_bytes=twice, speculate=4, draft_model=str(folder)))
    assert guessing.engine.runner.kv_cache.pool.num_blocks == plain.engine.runner.kv_cache.pool.num_blocks
    for bench in (plain, guessing):
        bench.engine.scheduler.forecast.answers.share = 0.0
    gone = frozenset(f"r{at}" for at in range(seed % 2, 16, 5))
    assert answers(guessing, seed, gone) == answers(plain, seed, gone)
    assert guessing.engine.stats().num_preemptions > 0
    pool = guesser_of(guessing).runner.kv_cache.pool
    assert pool.num_free == pool.num_blocks
    assert not guesser_of(guessing)._shadows
    assert guessing.engine.drafter.num_accepted > 20


def test_a_request_resumed_at_any_token_gets_the_rest_of_its_answer(model_folder: ModelFolder) -> None:
    bench = with_draft(model_folder(), model_folder())
    request = bench.request("r", prompt_of(21), max_tokens=24, temperature=1.0, seed=2, ignore_eos=True)
    *deltas, _ = run(bench, request)
    for cut in range(len(deltas) + 1):
        *rest, _ = run(bench, request, log_of(deltas[:cut]))
        assert log_of([*deltas[:cut], *rest]) == log_of(deltas)
    assert len(deltas) < 8 and bench.engine.drafter.num_accepted > 60


def test_a_draft_of_the_same_distribution_is_accepted_because_it_draws_the_same_numbers(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accepted() -> float:
        bench = with_draft(model_folder(), model_folder())
        bench.add("r", prompt_of(9), max_tokens=100, temperature=1.5, seed=3, ignore_eos=True)
        bench.finish()
        return acceptance(bench)

    assert accepted() == 1
    copied = draft_model.copy_of
    monkeypatch.setattr(
        draft_model, "copy_of", lambda seq: replace(copied(seq), sampling=replace(seq.sampling, seed=4))
    )
    assert accepted() < 0.5


def guess_alone(guesser: DraftModel, sequence: Sequence, num: int) -> list[int]:
    """The guess of a draft model that never saw the sequence."""
    known = guesser._shadows.pop(sequence)
    (guess,) = guesser.guess([(sequence, num)])
    guesser.forget(sequence)
    guesser._shadows[sequence] = known
    return guess


def test_after_accepted_and_refused_guesses_the_cache_is_that_of_the_sequence(model_folder: ModelFolder) -> None:
    bench = with_draft(model_folder(), model_folder(num_hidden_layers=3, seed=7), max_num_seqs=3)
    for at in range(3):
        bench.add(f"r{at}", prompt_of(9 + at, at), max_tokens=60, temperature=4.0, ignore_eos=True)
    guesser = guesser_of(bench)
    num_compared = 0
    while bench.engine.has_work:
        running = [sequence for sequence in bench.engine.scheduler.running if sequence in guesser._shadows]
        for sequence in running:
            assert guess_alone(guesser, sequence, 3) == guesser.guess([(sequence, 3)])[0]
            num_compared += 1
        bench.step()
    assert num_compared > 50 and 0 < bench.engine.drafter.num_accepted < bench.engine.drafter.num_drafted


def test_a_long_prompt_is_read_in_parts_beside_other_drafts(model_folder: ModelFolder) -> None:
    bench = with_draft(model_folder(), model_folder())
    guesser = guesser_of(bench)
    bench.add("short", prompt_of(5), max_tokens=120, ignore_eos=True)
    bench.step(2)
    bench.add("long", prompt_of(200), max_tokens=20, ignore_eos=True)
    while not any(len(sequence.token_ids) > 200 for sequence in bench.engine.scheduler.running):
        bench.step()
    long = bench.engine.scheduler.running[-1]
    reads = []
    for _ in range(4):
        bench.step()
        reads.append(guesser._shadows[long].copy.num_computed)
    assert reads[:3] == [64, 128, 192] and reads[3] > 192
    assert len(bench.deltas("short")) < len(bench.token_ids("short"))
    bench.finish()
    assert bench.token_ids("long") == bench.generate(prompt_of(200), 20)


def test_a_sequence_that_finds_no_room_in_the_drafts_cache_gets_no_draft(model_folder: ModelFolder) -> None:
    bench = with_draft(model_folder(), model_folder())
    guesser = guesser_of(bench)
    guesser.runner.kv_cache.pool.allocate(guesser.runner.kv_cache.pool.num_free - 4)  # 64 tokens are left
    for at in range(3):
        bench.add(f"r{at}", prompt_of(20, at), max_tokens=40, ignore_eos=True)
    bench.finish()
    for at in range(3):
        assert bench.token_ids(f"r{at}") == bench.generate(prompt_of(20, at), 40)
    assert 0 < bench.engine.drafter.num_accepted < 60
    assert guesser.runner.kv_cache.pool.num_free == 4


def test_a_draft_model_that_fails_is_asked_no_more(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = with_draft(model_folder(), model_folder())
    bench.add("r", prompt_of(9), max_tokens=40, ignore_eos=True)
    bench.step(4)

    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("kernel")

    monkeypatch.setattr(guesser_of(bench).runner, "forward", broken)
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(9), 40)
    assert isinstance(bench.end("r"), Finished)
    assert len([record for record in caplog.records if "no tokens are drafted any more" in record.message]) == 1


def test_a_step_that_fails_beside_drafts_ends_only_its_culprit(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = with_draft(model_folder(), model_folder())
    forward = bench.engine.runner.forward

    def broken(rows: Any, sampled: torch.Tensor | None = None) -> torch.Tensor:
        if any(row.sequence.request_id == "bad" and row.start > 12 for row in rows):
            raise RuntimeError("kernel")
        return forward(rows, sampled)

    monkeypatch.setattr(bench.engine.runner, "forward", broken)
    for name in ("good", "bad", "late"):
        bench.add(name, prompt_of(9), max_tokens=30, ignore_eos=True)
    bench.finish()
    assert not isinstance(bench.end("bad"), Finished)
    assert bench.token_ids("good") == bench.token_ids("late") == bench.generate(prompt_of(9), 30)
    assert acceptance(bench) > 0.5


def test_nan_of_a_draft_model_costs_that_sequence_its_drafts(model_folder: ModelFolder) -> None:
    bench = with_draft(model_folder(), model_folder())
    guesser = guesser_of(bench)
    bench.add("bad", prompt_of(9), max_tokens=40, ignore_eos=True)
    bench.step(3)
    (shadow,) = guesser._shadows.values()
    for pool in guesser.runner.kv_cache.keys + guesser.runner.kv_cache.values:
        pool[:, torch.tensor(shadow.copy.block_ids)] = torch.nan
    before = bench.engine.drafter.num_drafted
    bench.step(2)
    assert shadow.is_refused and bench.engine.drafter.num_drafted <= before + 4
    pool = guesser.runner.kv_cache.pool
    assert pool.num_free == pool.num_blocks
    bench.add("next", prompt_of(11, 3), max_tokens=40, ignore_eos=True)
    bench.finish()
    assert bench.token_ids("bad") == bench.generate(prompt_of(9), 40)
    assert bench.engine.drafter.num_accepted > 20  # of the next one, in the blocks that were wiped


def test_a_draft_model_that_fails_in_its_warm_up_is_not_asked(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = with_draft(model_folder(), model_folder())
    monkeypatch.setattr(guesser_of(bench), "warm_up", lambda *_: 1 / 0)
    bench.engine.drafter.warm_up(4, 64, lambda stage, share: None)
    assert not bench.engine.drafter.is_on


def test_guesses_are_sampled_without_waiting_for_any(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where the samples are read together at the end."""
    bench = with_draft(model_folder(), model_folder())
    guesser = guesser_of(bench)
    for at, sampling in enumerate(({}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9})):
        bench.add(f"r{at}", prompt_of(5 + at), max_tokens=30, ignore_eos=True, **sampling)
    bench.step(6)
    guesser.device = torch.device("meta")  # anything but a CPU
    running = bench.engine.scheduler.running
    reads: list[int] = []
    read = draft_model.PendingSamples.read
    monkeypatch.setattr(draft_model.PendingSamples, "read", lambda self: reads.append(waits.count) or read(self))
    for found in ([4, 4, 0], [4, 4, 4]):  # a nucleus wider than the candidates: sorted in full the next time
        with CountWaits() as waits:
            guesses = guesser.guess([(sequence, 4) for sequence in running])
        assert [len(guess) for guess in guesses] == found
    assert reads == [0] * 8


def test_tokens_that_one_of_the_models_lacks_are_no_guesses_and_no_failure(model_folder: ModelFolder) -> None:
    """Vocabularies are padded to different sizes."""
    narrow, padded = model_folder(), model_folder(vocab_size=330)
    for folder, draft in ((narrow, padded), (padded, narrow)):
        bench, plain = with_draft(folder, draft), Bench(folder)
        for each in (bench, plain):
            for at in range(3):
                each.add(f"r{at}", prompt_of(7, at), max_tokens=60, temperature=3.0, seed=at, ignore_eos=True)
            each.finish()
        assert all(bench.token_ids(f"r{at}") == plain.token_ids(f"r{at}") for at in range(3))
        assert bench.engine.drafter.guesser is not None


def test_a_prompt_longer_than_the_drafts_context_gets_no_draft(model_folder: ModelFolder) -> None:
    bench = with_draft(model_folder(), model_folder(max_position_embeddings=32))
    bench.add("r", prompt_of(20), max_tokens=30, ignore_eos=True)
    pool, free = guesser_of(bench).runner.kv_cache.pool, list[int]()
    while bench.engine.has_work:
        free.append(pool.num_free)
        bench.step()
    assert min(free) < pool.num_blocks == free[-1]  # others may have its blocks before it ends
    assert bench.token_ids("r") == bench.generate(prompt_of(20), 30)
    assert 0 < bench.engine.drafter.num_drafted < 20


def test_a_draft_model_with_another_tokenizer_is_refused(model_folder: ModelFolder, tmp_path: Path) -> None:
    copytree(model_folder(), other := tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DraftFault, match="OMNI_DRAFT_MODEL=.*another tokenizer"):
        with_draft(model_folder(), other)


def test_a_draft_model_with_states_is_refused(model_folder: ModelFolder) -> None:
    with pytest.raises(DraftFault, match="OMNI_DRAFT_MODEL=.*mamba.* keeps"):
        with_draft(model_folder(), model_folder("mamba"))


def test_a_model_that_cannot_verify_says_so_once(model_folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    bench = with_draft(model_folder("mamba"), model_folder())
    bench.add("r", prompt_of(9))
    bench.finish()
    assert isinstance(bench.end("r"), Finished)
    assert len([record for record in caplog.records if "OMNI_DRAFT_MODEL have no effect" in record.message]) == 1


def test_measured_lengths_give_the_same_answers(model_folder: ModelFolder) -> None:
    bench = with_draft(model_folder(), model_folder())
    bench.engine.drafter.lengths = Lengths(48)
    for at in range(4):
        bench.add(f"r{at}", prompt_of(9 + at, at), max_tokens=150, ignore_eos=True)
    bench.finish()
    assert all(bench.token_ids(f"r{at}") == bench.generate(prompt_of(9 + at, at), 150) for at in range(4))
    assert bench.engine.drafter.num_drafted > 0


def test_without_a_number_five_tokens_are_drafted(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), replace(SMALL, draft_model=str(model_folder())))
    assert bench.engine.drafter.num_ahead == 5
