"""V3.2's MTP layer by the GPU's kernels in Triton's interpreter, its guesses recorded: the layer written out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.deepseek import numbers, save_deepseek, save_unpacked
from tests.worker.conftest import SMALL, Bench, prompt_of
from tests.worker.drafting.head_models import layer_reference
from tests.worker.drafting.test_heads import LIMIT, Spied, deviation
from tests.worker.interpreter import rounds_as_a_gpu
from worker.drafting import heads_mtp
from worker.runners.choose import surveyed_runner

pytest.importorskip("triton")
latent = pytest.importorskip("worker.runners.latent.triton")
heads_recorded = pytest.importorskip("worker.drafting.heads_recorded")

__all__ = ["rounds_as_a_gpu"]
pytestmark = pytest.mark.usefixtures("rounds_as_a_gpu")


def rerun(function: Callable[[], None]) -> Callable[[], None]:
    """In the place of a CUDA graph: the same launches over the same buffers."""
    with torch.inference_mode():
        function()
    return torch.inference_mode()(function)


def by_kernels(*args: Any) -> Any:
    """surveyed_runner() as on a GPU: of the head's layer only, as the interpreter is slow."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("worker.runners.candidates.uses_kernels", lambda device: True)
        return surveyed_runner(*args)


def test_guesses_by_recorded_kernels_are_those_of_the_layer_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prompt is longer than what a token attends to, the other is not."""
    monkeypatch.setattr(heads_mtp, "surveyed_runner", by_kernels)
    folder = save_deepseek(tmp_path / "released", num_hidden_layers=2, packed=False, index_topk=8, index_n_heads=16)
    bench = Bench(folder, replace(SMALL, speculate=2, max_model_len=64))
    spied = Spied(bench)
    guesser, head = spied.guesser, spied.guesser.head
    assert type(head.own) is latent.TritonLatentRunner
    guesser.recorded = heads_recorded.RecordedGuesses(head, guesser.kv_cache, guesser.kv_cache.pool.num_blocks - 1)
    guesser.recorded.record(2, 64, torch.zeros(64), rerun)
    replayed, replay = [], guesser.recorded.replay

    def noted(*args: object) -> object:
        replayed.append(replay(*args))
        return replayed[-1]

    monkeypatch.setattr(guesser.recorded, "replay", noted)
    for length in (13, 5):
        bench.add(f"r{length}", prompt_of(length), max_tokens=5, ignore_eos=True)
    bench.finish()
    assert replayed and None not in replayed
    deeper = save_unpacked(folder, tmp_path / "deeper", with_mtp=True)
    plain = save_unpacked(folder, tmp_path / "plain")
    assert deviation(spied, layer_reference(plain, deeper, numbers(folder), "model.layers.2.")) < LIMIT
