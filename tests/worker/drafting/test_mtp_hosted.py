"""An MTP layer whose experts stand in host memory, as its model's do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.deepseek import save_deepseek
from tests.worker.conftest import SMALL, Bench, prompt_of
from tests.worker.runners.test_hosted import beside, work
from worker.drafting.heads_mtp import MtpHead
from worker.kernels.experts.host_work import HostWork
from worker.kernels.packed.weights import Weights

__all__ = ["beside", "work"]
LENGTHS = (21, 5)


def test_its_guesses_are_those_of_a_layer_whose_experts_are_not(
    tmp_path: Path, beside: HostWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_deepseek(tmp_path, mtp="agreeing", layer_gain=0.15)
    benches = [Bench(folder, replace(SMALL, experts="ram", speculate=2))]
    monkeypatch.setattr("worker.runners.parts.hosted.DEVICES", ("cuda",))
    benches.append(Bench(folder, replace(SMALL, speculate=2)))
    for bench in benches:
        for length in LENGTHS:
            bench.add(f"r{length}", prompt_of(length), max_tokens=16, ignore_eos=True)
        bench.finish()
    hosted, plain = (bench.engine.drafter for bench in benches)
    for length in LENGTHS:
        assert benches[0].token_ids(f"r{length}") == benches[1].token_ids(f"r{length}")
    assert (hosted.num_drafted, hosted.num_accepted) == (plain.num_drafted, plain.num_accepted)
    own, others = (drafter.guesser.head.hosted for drafter in (hosted, plain))  # type: ignore[union-attr]
    assert others is None and own is not None and own.layers[0].uses.any()


def test_on_a_cpu_a_packed_layer_s_experts_are_never_decoded_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    dense = Weights.dense

    def noted(weights: Weights, *args: Any) -> torch.Tensor:
        asked.append(weights.codes.dim())
        return dense(weights, *args)

    monkeypatch.setattr(Weights, "dense", noted)
    bench = Bench(save_deepseek(tmp_path), replace(SMALL, speculate=2))
    assert isinstance(bench.engine.drafter.guesser.head, MtpHead)  # type: ignore[union-attr]
    assert set(asked) == {2}
