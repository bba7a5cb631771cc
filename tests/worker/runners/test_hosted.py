"""Models whose experts stand in host memory beside a GPU, which here is the CPU: the same tokens, recorded or not."""

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode
from triton.runtime.interpreter import InterpretedFunction

from tests.worker import gpu_stand_ins
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.gpu_stand_ins import Recording, launched, recorded
from worker.attention.kernel import KernelAttention
from worker.attention.paged import PagedAttention
from worker.kernels.experts.host_work import HostWork
from worker.kernels.experts.placing import HostedExperts
from worker.kernels.experts.ram import RamExperts
from worker.runners.base import ModelRunner
from worker.runners.decoder import DecoderRunner
from worker.runners.parts.hosted import fill_card
from worker.runners.recorded.recordings import Recordings

LENGTHS = (3, 20, 9)  # of prompts
TOP_K = 2

pytestmark = pytest.mark.usefixtures("kernels")


def to_host(host: torch.Tensor, source: torch.Tensor) -> None:
    host[: source.numel()].copy_(source.flatten())


def to_device(target: torch.Tensor, host: torch.Tensor) -> None:
    target.copy_(host[: target.numel()].view(target.shape))


def call(function: int, argument: int) -> None:
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(argument)


class NotedStream:
    """What is put runs at once, and again when the recording that was made meanwhile is replayed."""

    to_host, to_device, call = (staticmethod(launched(each)) for each in (to_host, to_device, call))

    def told(self) -> None:
        pass

    def wait(self, mark: Any) -> None:
        pass

    def mark(self) -> None:
        pass

    def meet(self, mark: Any) -> None:
        pass

    @property
    def is_recording(self) -> bool:
        return isinstance(_get_current_dispatch_mode(), Recording)


@pytest.fixture
def work() -> Iterator[HostWork]:
    work = HostWork(NotedStream, pins=False)
    yield work
    work.thread.close()


@pytest.fixture
def beside(work: HostWork, monkeypatch: pytest.MonkeyPatch) -> HostWork:
    """The CPU is taken for a GPU beside whose memory experts stand."""
    monkeypatch.setattr("worker.runners.parts.hosted.DEVICES", ("cpu",))
    monkeypatch.setattr("worker.kernels.experts.ram.host_work", lambda device: work)
    monkeypatch.setattr("worker.kernels.experts.placing.TRIED_ROWS", ())
    return work


def answers(bench: Bench) -> list[list[int]]:
    """To prompts that arrive while others decode."""
    for num_tokens in LENGTHS:
        bench.add(f"r{num_tokens}", prompt_of(num_tokens))
        bench.step(3)
    bench.finish()
    return [bench.token_ids(f"r{num_tokens}") for num_tokens in LENGTHS]


def hosted_layers(bench: Bench) -> list[RamExperts]:
    runner = bench.engine.runner
    assert isinstance(runner, ModelRunner) and runner.hosted is not None
    return list(runner.hosted.layers)


def recording_runner(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[DecoderRunner, Recordings]:
    """The bench's runner, with recordings of its steps."""
    monkeypatch.setattr(InterpretedFunction, "run", launched(InterpretedFunction.run))
    monkeypatch.setattr(KernelAttention, "write", PagedAttention.write)
    monkeypatch.setattr("worker.attention.kernel.attend", launched(gpu_stand_ins.attend))
    runner = DecoderRunner.__new__(DecoderRunner)
    runner.__dict__.update(bench.engine.runner.__dict__ | {"attend_with": KernelAttention.of_rows})
    bench.engine.runner = runner
    runner.recordings = recordings = Recordings()
    recordings.record(runner, runner._run, 8, 256, recorded, lambda what, share: None)
    return runner, recordings


@pytest.mark.parametrize("family", ["glm4_moe", "mixtral"])
@pytest.mark.parametrize("overlap", [False, True], ids=["in-turn", "overlapped"])
def test_the_tokens_are_those_of_a_model_whose_experts_are_not(
    model_folder: ModelFolder, beside: HostWork, monkeypatch: pytest.MonkeyPatch, family: str, overlap: bool
) -> None:
    config = replace(SMALL, overlap=overlap, experts="ram")
    bench = Bench(model_folder(family), config)
    found = answers(bench)
    assert all(layer.uses.any() and layer.card is None for layer in hosted_layers(bench)) and beside.num_calls
    monkeypatch.setattr("worker.runners.parts.hosted.DEVICES", ("cuda",))
    plain = Bench(model_folder(family), config)
    assert plain.engine.runner.hosted is None  # type: ignore[attr-defined]
    assert found == answers(plain) == [plain.generate(prompt_of(num_tokens)) for num_tokens in LENGTHS]


def test_experts_that_are_mapped_from_files_are_computed_where_they_are(
    model_folder: ModelFolder, beside: HostWork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("worker.models.experts.stored.LEAST_NUMBERS", 0)
    config = replace(SMALL, experts="ram", packed_folder=tmp_path)
    bench = Bench(model_folder("glm4_moe"), config)
    assert list(tmp_path.glob("*/*.omni")) and hosted_layers(bench)
    assert answers(bench) == [bench.generate(prompt_of(num_tokens)) for num_tokens in LENGTHS]


def test_recorded_steps_read_the_experts_of_their_tokens_only(
    model_folder: ModelFolder, beside: HostWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder("mixtral"), replace(SMALL, overlap=True, experts="ram"))
    expected = answers(bench)
    runner, recordings = recording_runner(bench, monkeypatch)
    assert {step.shape.kind for step in recordings.steps} == {"decode steps", "mixed steps"}
    layers = hosted_layers(bench)
    for layer in layers:
        layer.uses.zero_()
    bench.events.clear()
    monkeypatch.setattr(runner, "unrecorded", lambda *_: pytest.fail("every step fits a recording"))
    assert answers(bench) == expected
    num_tokens = sum(length + len(tokens) - 1 for length, tokens in zip(LENGTHS, expected, strict=True))
    assert int(layers[0].uses.sum()) <= num_tokens * TOP_K
    assert 0 < int(layers[-1].uses.sum())


def test_with_streaming_larger_steps_are_not_recorded(
    model_folder: ModelFolder, beside: HostWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From as many rows on as was measured when the model was opened."""
    monkeypatch.setattr("worker.kernels.experts.placing.TRIED_ROWS", (4,))
    monkeypatch.setattr(HostedExperts, "_seconds_of", lambda _, experts, call: 1 + isinstance(experts, RamExperts))
    bench = Bench(model_folder("mixtral"), replace(SMALL, experts="ram"))
    assert [layer.min_streamed for layer in hosted_layers(bench)] == [4, 4]
    _, recordings = recording_runner(bench, monkeypatch)
    assert recordings.steps and max(step.shape.num_tokens for step in recordings.steps) < 4


def test_a_model_that_is_opened_has_experts_on_the_gpu_and_steps_replace_them(
    model_folder: ModelFolder, beside: HostWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = HostedExperts.fill_card
    monkeypatch.setattr(
        HostedExperts, "fill_card", lambda own, _: fill(own, sum(one.experts.num_bytes for one in own.layers) // 2)
    )
    monkeypatch.setattr("worker.kernels.experts.placing.LEAST_USES", 1)
    monkeypatch.setattr("worker.kernels.experts.placing.STEPS_BETWEEN", 4)
    bench = Bench(model_folder("mixtral"), replace(SMALL, experts="auto"))
    cards = [layer.card for layer in hosted_layers(bench) if layer.card is not None]
    before = [card.ids.clone() for card in cards]
    assert answers(bench) == [bench.generate(prompt_of(num_tokens)) for num_tokens in LENGTHS]
    assert len(cards) == 2 and any(not torch.equal(card.ids, old) for card, old in zip(cards, before, strict=True))


def test_what_keys_and_values_cannot_use_is_for_experts_on_the_gpu(
    model_folder: ModelFolder, beside: HostWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder("mixtral"), replace(SMALL, experts="ram"))
    runner, loaded = bench.engine.runner, bench.loaded
    assert isinstance(runner, ModelRunner) and runner.hosted is not None
    expected, asked = answers(bench), []
    monkeypatch.setattr("worker.runners.parts.hosted.kv_memory_bytes", lambda *_: 1000)
    monkeypatch.setattr(runner.hosted, "fill_card", asked.append)
    for config in (
        replace(SMALL, experts="ram"),
        replace(SMALL, experts="auto"),
        replace(SMALL, experts="auto", kv_memory_bytes=200),
    ):
        fill_card(runner.hosted, loaded, config, runner.kv_cache.shapes, 1)
    assert asked == [500, 800]
    monkeypatch.undo()
    runner.hosted.fill_card(runner.hosted.layers[0].experts.num_bytes)
    assert all(layer.card is not None for layer in runner.hosted.layers)
    bench.events.clear()
    assert answers(bench) == expected
