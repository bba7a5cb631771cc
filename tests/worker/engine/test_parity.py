"""Our greedy tokens are those of transformers' generate(), family by family, alone and in a batch."""

import pytest

from tests.models import FAMILIES, SEQUENTIAL_FAMILIES
from tests.worker.conftest import Bench, ModelFolder, prompt_of
from worker.runners.base import ModelRunner
from worker.runners.sequential import Mode, SequentialRunner

LENGTHS = (3, 40, 17, 1, 9)  # one step takes 16 tokens, so two of these come in chunks


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_generate_alone_and_in_a_mixed_batch(family: str, model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(family))
    assert isinstance(bench.engine.runner, ModelRunner)
    expected = {num_tokens: bench.generate(prompt_of(num_tokens)) for num_tokens in LENGTHS}

    bench.add("alone", prompt_of(17))
    bench.finish()
    assert bench.token_ids("alone") == expected[17]

    for num_tokens in LENGTHS:  # staggered: some decode while others prefill
        bench.add(f"r{num_tokens}", prompt_of(num_tokens), cache_salt=str(num_tokens))
        bench.step(3)
    bench.finish()
    assert {num_tokens: bench.token_ids(f"r{num_tokens}") for num_tokens in LENGTHS} == expected


@pytest.mark.parametrize("family", SEQUENTIAL_FAMILIES)
def test_a_family_the_cache_cannot_hold_runs_one_at_a_time_and_is_logged(
    family: str, model_folder: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(model_folder(family))
    assert isinstance(bench.engine.runner, SequentialRunner)
    assert f"{family} runs one sequence at a time" in caplog.text
    for num_tokens in LENGTHS[:3]:
        bench.add(f"r{num_tokens}", prompt_of(num_tokens), max_tokens=8)
        bench.step(2)
    bench.finish()
    for num_tokens in LENGTHS[:3]:
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens), 8)


@pytest.mark.parametrize("mode", Mode)
def test_a_family_without_a_reliable_cache_is_computed_from_the_start(mode: Mode, model_folder: ModelFolder) -> None:
    bench = Bench(model_folder("llama4_text"))
    assert isinstance(bench.engine.runner, SequentialRunner)
    bench.engine.runner.mode = mode
    bench.add("r", prompt_of(40), max_tokens=8)
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(40), 8)
