"""An MTP layer whose experts stand in host memory, as its model's do."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.deepseek import save_deepseek
from tests.worker.conftest import SMALL, Bench, prompt_of
from tests.worker.runners.test_hosted import beside, work
from worker.kernels.experts.host_work import HostWork

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
