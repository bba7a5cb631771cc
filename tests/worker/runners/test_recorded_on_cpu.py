"""Decode steps on a CPU are recorded once and replayed: the same numbers, whatever their sequences are."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from common.wire import Finished
from tests.worker.conftest import Bench, ModelFolder, prompt_of
from tests.worker.runners.latent.models import NATIVE_WIDTHS
from worker.kernels.packed.cpu import ROWS, CpuLinear
from worker.kernels.quantized import quantization_named
from worker.models.loader import EngineConfig
from worker.runners.recorded.native import NativeRunner
from worker.runners.recorded.on_cpu import NativeSteps
from worker.runners.recorded.program import NotRecorded, Program, StepMemory
from worker.state.scheduled_sequence import ScheduledSequence

pytestmark = pytest.mark.usefixtures("kernels")

CONFIG = EngineConfig(max_num_seqs=8, max_step_tokens=64, threads=2, quantization=quantization_named("int8"))
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}
QWEN2_MOE = WIDE | {"use_sliding_window": False, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 96}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", WIDE),
    "biases": ("qwen2", WIDE),
    "normed heads": ("qwen3", WIDE),
    "a window": ("mistral", WIDE | {"sliding_window": 24}),
    "experts": ("qwen3_moe", WIDE | {"moe_intermediate_size": 64}),
    "shared experts": ("glm4_moe", WIDE | {"head_dim": 64, "moe_intermediate_size": 64}),
    "a gate of them": ("qwen2_moe", QWEN2_MOE),
    "sinks": ("gpt_oss", WIDE),
    "latents": ("deepseek_v3", NATIVE_WIDTHS),
    "latents, but for queries": ("deepseek_v3", NATIVE_WIDTHS | {"q_lora_rank": None}),
}
LENGTHS = (1, 16, 40, 33, 90)  # of prompts; the longer ones answer longer, so that one to five decode together


def compared(bench: Bench) -> NativeSteps:
    """From now on each step is computed by the recordings and without them: with the same logits, bit by bit."""
    bench.engine.warm_up(lambda stage, fraction: None)
    runner = bench.engine.runner
    assert isinstance(runner, NativeRunner)
    steps, forward = runner.steps, runner.forward
    assert steps is not None
    for product in runner.products:
        if isinstance(product, CpuLinear):
            product.ways = dict.fromkeys(ROWS, "exact")  # whatever was measured
    steps.programs.clear()  # those of warm_up()

    def twice(rows: list[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        logits = forward(rows, sampled)
        runner.steps = None
        assert torch.equal(forward(rows, sampled), logits)
        runner.steps = steps
        return logits

    runner.forward = twice  # type: ignore[method-assign]
    return steps


def answer(bench: Bench, name: str) -> None:
    for at, num_tokens in enumerate(LENGTHS):
        bench.add(f"{name}{num_tokens}", prompt_of(num_tokens), max_tokens=12 + 8 * at, ignore_eos=True)
    bench.finish()


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
@pytest.mark.parametrize("name", MODELS)
def test_replayed_steps_are_the_steps_themselves(name: str, overlap: bool, model_folder: ModelFolder) -> None:
    family, changes = MODELS[name]
    bench = Bench(model_folder(family, **changes), replace(CONFIG, overlap=overlap))
    steps = compared(bench)
    answer(bench, "recorded")
    programs = dict(steps.programs)
    assert len(programs) > 1
    assert all(programs.values())
    answer(bench, "replayed")
    assert all(steps.programs[size] is program for size, program in programs.items())
    assert all(isinstance(bench.end(name), Finished) for name in bench.events)


def test_what_was_recorded_holds_for_a_cache_of_another_size(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder("llama", **WIDE), CONFIG)
    compared(bench)
    answer(bench, "before")
    bench.engine.resize_kv(bench.engine.kv_bytes // 2)
    answer(bench, "after")
    assert all(isinstance(bench.end(name), Finished) for name in bench.events)


def test_what_torch_computes_is_not_recorded(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder("llama", **WIDE), replace(CONFIG, quantization=None))  # in float32 by oneDNN
    bench.engine.warm_up(lambda stage, fraction: None)
    bench.add("r", prompt_of(40))
    bench.finish()
    assert bench.engine.runner.steps.programs == {1: None}
    assert bench.token_ids("r") == bench.generate(prompt_of(40))


@pytest.mark.parametrize(
    "compute", [lambda: torch.ones(2) + 1, lambda: torch.empty(9, 2), lambda: torch.empty(2, 2)[:1]]
)
def test_a_program_of_anything_but_kernels_is_refused(compute: Callable[[], object]) -> None:
    with pytest.raises(NotRecorded), Program().recording(StepMemory(8)):
        compute()


def test_memory_of_what_is_gone_is_used_again() -> None:
    memory = StepMemory(8)
    with Program().recording(memory):
        first = torch.empty(3, 16)
        second = torch.empty(3, 16)
        place = first.data_ptr()
        del first
        third = torch.empty(3, 16)
    assert third.data_ptr() == place
    assert second.data_ptr() != place
    assert len(memory.blocks) == 2
