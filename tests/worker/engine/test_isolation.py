"""A fault in one request ends that request and no other."""

import pytest
import torch

from common.wire import Failed, Finished, LoggedChoice
from tests.worker.conftest import Bench, ModelFolder, prompt_of
from worker.state.scheduled_sequence import ScheduledSequence

POISON = 319  # a token id; a prompt that contains it breaks the forward pass


def break_forward(bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Forward raises `error` for a batch that holds POISON, or gives NaN for its row when there is no error."""
    forward = bench.engine.runner.forward

    def broken(rows: list[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        is_bad = [POISON in row.sequence.token_ids[: row.sequence.num_prompt_tokens] for row in rows]
        if error is not None and any(is_bad):
            raise error
        logits = forward(rows, sampled)
        sampling = [bad for bad, row in zip(is_bad, rows, strict=True) if row.samples]
        logits[torch.tensor(sampling, dtype=torch.bool)] = torch.nan
        return logits

    monkeypatch.setattr(bench.engine.runner, "forward", broken)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out_of_memory", "CUDA out of memory"),
        (MemoryError(), "out_of_memory", "Out of memory"),
        (RuntimeError("kernel"), "internal_error", "The model failed"),
        (None, "internal_error", "no usable probabilities"),
    ],
)
def test_a_row_that_breaks_the_batch_fails_alone(
    error: Exception | None, code: str, message: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_forward(bench, monkeypatch, error)
    bench.add("good", prompt_of(9))
    bench.step(3)
    bench.add("bad", [*prompt_of(5), POISON], n=2)
    bench.add("late", prompt_of(7))
    bench.finish()
    failed = bench.end("bad")
    assert isinstance(failed, Failed) and failed.code == code and message in failed.message
    assert bench.token_ids("good") == bench.generate(prompt_of(9))
    assert bench.token_ids("late") == bench.generate(prompt_of(7))
    assert bench.engine.stats().kv_blocks_used == 0


def test_a_step_that_runs_out_of_memory_frees_it_before_its_rows_run_alone(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder())
    break_forward(bench, monkeypatch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    order: list[str] = []
    broken = bench.engine.runner.forward

    def noted(rows: list[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        order.append(f"forward {len(rows)}")
        return broken(rows, sampled)

    monkeypatch.setattr(bench.engine.runner, "forward", noted)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("freed"))
    bench.add("bad", [*prompt_of(3), POISON])
    bench.add("good", prompt_of(9), max_tokens=1)
    bench.finish()
    assert order == ["forward 2", "freed", "forward 1", "freed", "forward 1"]
    failed = bench.end("bad")
    assert isinstance(failed, Failed) and failed.code == "out_of_memory"
    assert failed.message.startswith("CUDA out of memory")
    assert isinstance(bench.end("good"), Finished)


def test_nan_left_in_the_cache_does_not_reach_its_next_user(bench: Bench) -> None:
    bench.add("bad", prompt_of(30))
    bench.step(2)
    (sequence,) = bench.engine.scheduler.running
    for pool in bench.engine.runner.kv_cache.keys + bench.engine.runner.kv_cache.values:
        pool[:, torch.tensor(sequence.block_ids)] = torch.nan
    bench.finish()
    assert isinstance(bench.end("bad"), Failed)
    for seed in range(8):
        bench.add(f"r{seed}", prompt_of(20, seed))
    bench.finish()
    assert all(isinstance(bench.end(f"r{seed}"), Finished) for seed in range(8))


def test_a_failure_leaves_a_shared_prefix_intact(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    break_forward(bench, monkeypatch, None)
    prompt = prompt_of(40)
    bench.add("good", prompt)
    bench.step(5)
    bench.add("bad", [*prompt, POISON])
    bench.finish()
    assert isinstance(bench.end("bad"), Failed)
    assert bench.token_ids("good") == bench.generate(prompt)


def test_a_block_that_a_failed_step_did_not_fill_is_not_shared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two choices breaks the step in which the other would fill a block; the other is not computed at all."""
    forward, prompt = bench.engine.runner.forward, prompt_of(40)
    choices = {"n": 2, "temperature": 1.0, "seed": 5, "ignore_eos": True}
    is_due = False
    bench.add("unbroken", prompt, cache_salt="apart", **choices)
    bench.finish()

    def broken(rows: list[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        nonlocal is_due
        places = {row.sequence.index: row.start for row in rows if row.sequence.request_id == "bad"}
        is_due = is_due or places.get(1) == 47
        if is_due and 0 in places:
            raise RuntimeError("kernel")
        return forward(rows, sampled)

    monkeypatch.setattr(bench.engine.runner, "forward", broken)
    bench.add("bad", prompt, **choices)
    bench.finish()
    assert isinstance(bench.end("bad"), Failed)
    longer = [*prompt, *bench.token_ids("unbroken", 1)[:8], 7]
    bench.add("good", longer)
    bench.finish()
    end = bench.end("good")
    assert isinstance(end, Finished) and end.cached_tokens == 32
    assert bench.token_ids("good") == bench.generate(longer)


@pytest.mark.parametrize(
    ("prompt", "sampling", "code"),
    [
        ([], {}, "invalid_request"),
        ([320], {}, "invalid_request"),
        ([4] * 256, {}, "context_length_exceeded"),
        ([4], {"grammar": "{}"}, "invalid_request"),
    ],
)
def test_an_invalid_request_is_refused_with_its_reason(
    prompt: list[int], sampling: dict[str, object], code: str, bench: Bench
) -> None:
    bench.add("r", prompt, **sampling)
    bench.finish()
    failed = bench.end("r")
    assert isinstance(failed, Failed) and failed.code == code


def test_while_there_is_a_suspect_only_suspects_run(bench: Bench) -> None:
    bench.add("innocent", prompt_of(5))
    bench.step(2)
    shown = bench.token_ids("innocent")
    bench.engine.add(bench.request("suspect", prompt_of(5, seed=2)), {0: LoggedChoice()}, is_suspect=True)
    bench.step(4 + bench.engine.overlaps)
    assert len(bench.token_ids("suspect")) == 4
    late = bench.token_ids("innocent")[len(shown) :]
    assert len(late) == bench.engine.overlaps  # a token that was sampled before the suspect came
    bench.engine.clear_suspicion("suspect")
    bench.finish()
    assert bench.token_ids("innocent") == bench.generate(prompt_of(5))
    assert bench.token_ids("suspect") == bench.generate(prompt_of(5, seed=2))


def test_a_suspect_runs_although_others_hold_every_place(bench: Bench) -> None:
    for seed in range(8):
        bench.add(f"r{seed}", prompt_of(3, seed))
    bench.step(2)
    bench.engine.add(bench.request("suspect", prompt_of(5)), is_suspect=True)
    bench.step(1 + bench.engine.overlaps)
    assert bench.token_ids("suspect")
    bench.finish()
    assert all(bench.token_ids(f"r{seed}") == bench.generate(prompt_of(3, seed)) for seed in range(8))


def test_the_context_end_is_a_length_finish(bench: Bench) -> None:
    bench.add("r", prompt_of(250), max_tokens=100, ignore_eos=True)
    bench.finish()
    assert len(bench.token_ids("r")) == 6
    assert bench.deltas("r")[-1].finish_reason == "length"


def test_a_first_step_that_fails_ends_the_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the worker would say that it is ready, and fail every request."""

    def broken(*args: object) -> None:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(bench.engine.runner, "forward", broken)
    with pytest.raises(RuntimeError, match="the first step failed"):
        bench.engine.warm_up(lambda stage, share: None)
