"""Rotary frequencies depend neither on the other sequences of a batch nor on how a prompt is cut."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.kernels.test_native import WIDE

FIRST_TRAINED_ON = 32  # tokens
LONGROPE: dict[str, Any] = {
    "max_position_embeddings": 128,
    "original_max_position_embeddings": FIRST_TRAINED_ON,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": FIRST_TRAINED_ON,
        "short_factor": [1.0] * 16,
        "long_factor": [1.0 + 0.5 * at for at in range(16)],
    },
}


@pytest.fixture(params=["llama", "phi3"])
def folder(request: pytest.FixtureRequest, model_folder: ModelFolder) -> Path:
    return model_folder(request.param, **WIDE, **LONGROPE)


def test_an_answer_is_the_same_in_a_batch_with_a_longer_prompt(folder: Path) -> None:
    alone = Bench(folder)
    alone.add("short", prompt_of(9))
    alone.finish()
    beside = Bench(folder)
    beside.add("long", prompt_of(60), max_tokens=60)
    beside.step(6)
    beside.add("short", prompt_of(9))
    beside.finish()
    assert beside.token_ids("short") == alone.token_ids("short")


def test_a_long_prompt_in_chunks_gets_the_tokens_of_generate(folder: Path) -> None:
    bench = Bench(folder)  # steps of 16 tokens
    bench.add("long", prompt_of(60))
    bench.finish()
    assert bench.token_ids("long") == bench.generate(prompt_of(60))


def test_with_a_short_limit_the_model_uses_its_short_frequencies(folder: Path) -> None:
    bench = Bench(folder, replace(SMALL, max_model_len=FIRST_TRAINED_ON))
    bench.add("short", prompt_of(9))
    bench.finish()
    assert bench.token_ids("short") == bench.generate(prompt_of(9))
