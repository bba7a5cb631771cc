"""Speculation changes how many tokens a step gives and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.drafting.lookup import look_up
from worker.runners.decoder import DecoderRunner


@pytest.mark.parametrize(
    ("token_ids", "guess"),
    [
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9]),  # what followed 1 2 before
        ([1, 2, 7, 1, 2, 8, 1, 2], [8, 1, 2]),  # the latest occurrence counts
        ([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2], [7, 6, 1]),  # a longer match beats a later one
        ([3, 3, 3, 3], [3]),
        ([1, 2, 3], []),
        ([1], []),
        ([1 << 32, 0, 7, 1, 0], []),  # equal bytes that are not aligned with tokens do not match
    ],
)
def test_the_draft_is_what_followed_the_same_tokens(token_ids: list[int], guess: list[int]) -> None:
    assert look_up(token_ids, 3) == guess


def repeating(folder: Path, speculate: int) -> Bench:
    """An engine whose model sees only the last token, so that greedy text soon repeats itself."""
    bench = Bench(folder, replace(SMALL, speculate=speculate))
    runner = bench.engine.runner
    assert isinstance(runner, DecoderRunner)
    runner.layers = [replace(layer, attention_out=lambda attended: torch.zeros(1, 32)) for layer in runner.layers]
    return bench


CASES = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 0.3, "seed": 5},
    "logprobs": {"temperature": 0.0, "logprobs": 3},
    "penalties": {"temperature": 0.0, "frequency_penalty": 0.4},
    "short": {"temperature": 0.0, "max_tokens": 3},
    "stop": {"temperature": 0.0, "stop": ("e", "a")},
}


def logprobs(bench: Bench, request_id: str) -> list[float]:
    return [item.logprob for delta in bench.deltas(request_id) for item in delta.logprobs]


@pytest.mark.parametrize("case", CASES)
def test_tokens_text_and_usage_are_those_without_speculation(case: str, model_folder: ModelFolder) -> None:
    plain, guessing = repeating(model_folder(), 0), repeating(model_folder(), 4)
    prompts = {f"r{seed}": prompt_of(6, seed) * 3 for seed in range(3)}
    for bench in (plain, guessing):
        for request_id, prompt in prompts.items():
            bench.add(request_id, prompt, **({"max_tokens": 60} | CASES[case]))
        bench.finish()
    for request_id in prompts:
        assert guessing.token_ids(request_id) == plain.token_ids(request_id)
        assert guessing.text(request_id) == plain.text(request_id)
        assert guessing.end(request_id) == plain.end(request_id)
        logprobs = [
            [item.logprob for delta in bench.deltas(request_id) for item in delta.logprobs]
            for bench in (plain, guessing)
        ]
        assert logprobs[1] == pytest.approx(logprobs[0], abs=1e-4)


def test_a_text_that_repeats_itself_takes_fewer_steps(model_folder: ModelFolder) -> None:
    bench = repeating(model_folder(), 4)
    bench.add("r", prompt_of(6), max_tokens=100, ignore_eos=True)
    bench.finish()
    assert len(bench.token_ids("r")) == 100
    assert len(bench.deltas("r")) < 60
