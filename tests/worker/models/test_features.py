"""Every runner hands over the hidden states that the stock model computes, of all tokens of each row."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.runners.base import ModelRunner
from worker.runners.decoder import DecoderRunner
from worker.runners.latent.runner import LatentRunner
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.probe import probe_sequence
from worker.state.scheduled_sequence import ScheduledSequence

LAYERS = (1, 0, 2, 3)  # of a model of two layers: after the first, the embedding, before and after the final norm


def stock_states(bench: Bench, token_ids: list[int]) -> torch.Tensor:
    """[T, width * layers] of the whole sequence, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(bench.folder, dtype=torch.float32)
    before_norm: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([token_ids]), output_hidden_states=True).hidden_states
    by_layer: dict[int, Any] = {0: states[0], 1: states[1], 2: before_norm[0], 3: states[2]}
    return torch.cat([by_layer[layer][0] for layer in LAYERS], dim=1)


@pytest.mark.parametrize(
    ("family", "runner_type"),
    [("llama", NativeDecoderRunner), ("llama", DecoderRunner), ("deepseek_v32", LatentRunner)],
)
def test_features_are_the_stock_models_hidden_states(
    family: str, runner_type: type[ModelRunner], model_folder: ModelFolder, request: pytest.FixtureRequest
) -> None:
    """One prompt chunk, one decode step with a draft, one single token, which kernels sort first."""
    changes: dict[str, object] = {}
    if runner_type is NativeDecoderRunner:
        request.getfixturevalue("kernels")
        changes = {"head_dim": 32}
    bench = Bench(model_folder(family, **changes), SMALL)
    runner = bench.engine.runner
    assert isinstance(runner, ModelRunner)
    if runner_type is DecoderRunner:
        runner = plain_decoder(bench)
    assert type(runner) is runner_type
    runner.feature_layers = LAYERS
    sequences = [probe_sequence(prompt_of(num, seed=num)) for num in (20, 9, 6)]
    for sequence in sequences:
        sequence.block_ids = runner.kv_cache.pool.allocate(3)
    for chunks in ((7, 8, 5), (13, 1, 1)):
        rows = [ScheduledSequence(sequence, num) for sequence, num in zip(sequences, chunks, strict=True)]
        if chunks[1] == 1:
            sequences[1].draft = [5, 9]
        with torch.inference_mode():
            runner.forward(rows)
        assert runner.features is not None
        expected = [
            stock_states(bench, sequence.token_ids + sequence.draft)[row.start : row.start + row.num_inputs]
            for sequence, row in zip(sequences, rows, strict=True)
        ]
        for row, states in zip(rows, expected, strict=True):
            torch.testing.assert_close(runner.features.of(row), states, atol=2e-5, rtol=1e-4)
        for sequence, num in zip(sequences, chunks, strict=True):
            sequence.advance(num)


def plain_decoder(bench: Bench) -> DecoderRunner:
    """The engine's decoder, computed by torch alone."""
    runner = bench.engine.runner
    model = AutoModelForCausalLM.from_pretrained(bench.folder, dtype=torch.float32)
    assert isinstance(runner, DecoderRunner)
    return DecoderRunner(model, runner.kv_cache, [layer.spec for layer in runner.layers])


def test_without_wanted_layers_nothing_is_kept(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), SMALL)
    bench.add("r", prompt_of(5), max_tokens=3)
    bench.finish()
    runner = bench.engine.runner
    assert isinstance(runner, ModelRunner)
    assert runner.features is None
