"""Recorded decode steps, on a CPU: torch's flash kernel and CUDA graphs are replaced by equivalents."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.vision_models import save_vision_model
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.gpu_stand_ins import PAGE, CountWaits, Recording, recorded
from tests.worker.models.test_vision import SMALL as SMALL_VISION
from tests.worker.models.test_vision import TALL, WIDE, tokens
from tests.worker.models.test_vision import Bench as VisionBench
from tests.worker.sampling.test_sampler import sequence_with
from worker.attention.varlen import VarlenAttention
from worker.kernels.quantized import Fp8, Fp8Linear
from worker.runners.base import Runner
from worker.runners.decoder import DecoderRunner
from worker.runners.graphs import BUCKETS, GraphedDecoderRunner, cuda_capture, step_shapes
from worker.runners.image_prompts import ImagePromptRunner
from worker.sampling.sampler import sample


def as_on_a_gpu(bench: Bench) -> GraphedDecoderRunner:
    """Replace the engine's runner by the one for a GPU."""
    bench.engine.runner = runner = graphed(bench.engine.runner)
    return runner


def graphed(decoder: Runner) -> GraphedDecoderRunner:
    assert isinstance(decoder, DecoderRunner)
    runner = GraphedDecoderRunner.__new__(GraphedDecoderRunner)
    runner.__dict__.update(decoder.__dict__ | {"attend_with": VarlenAttention.of_rows, "steps": {}})
    return runner


def shapes_used(runner: GraphedDecoderRunner, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...]]]:
    """For each replayed step the number of its rows and the shape of its block table."""
    seen = []
    fill = runner._fill

    def noted(step, rows, sampled) -> None:  # type: ignore[no-untyped-def]
        seen.append((len(rows), tuple(step.attention.block_table.shape)))
        fill(step, rows, sampled)

    monkeypatch.setattr(runner, "_fill", noted)
    return seen


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}], ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_padded_decode_steps_and_ragged_steps_give_the_tokens_of_generate(
    family: str, changes: dict[str, int], model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(family, **changes))
    runner = as_on_a_gpu(bench)
    monkeypatch.setattr("worker.runners.graphs.SHORTER", (3 * PAGE,))
    runner.record(8, 256, capture=recorded, on_progress=lambda what, share: None)
    seen = shapes_used(runner, monkeypatch)
    for num_tokens in (3, 40, 17):
        bench.add(f"r{num_tokens}", prompt_of(num_tokens))
        bench.step(3)
    bench.finish()
    assert {(1, (1, 3)), (3, (4, 3)), (3, (4, 16))} <= set(seen)
    for num_tokens in (3, 40, 17):
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens))


@pytest.mark.usefixtures("flash")
def test_recorded_steps_with_fp8_weights_give_the_same_tokens(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), replace(SMALL, quantization=Fp8()))
    runner = as_on_a_gpu(bench)
    products = [runner.head, *(part for layer in runner.layers for part in (layer.qkv, layer.gate_up, layer.down))]
    assert all(isinstance(product, Fp8Linear) for product in products)

    def answers(name: str) -> list[list[int]]:
        for num_tokens in (3, 40, 17):
            bench.add(f"{name}{num_tokens}", prompt_of(num_tokens), ignore_eos=True)
        bench.finish()
        return [bench.token_ids(f"{name}{num_tokens}") for num_tokens in (3, 40, 17)]

    unrecorded = answers("u")
    runner.record(8, 256, capture=recorded, on_progress=lambda what, share: None)
    assert answers("r") == unrecorded


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_recorded_steps_continue_after_images(family: str, tmp_path: Path) -> None:
    bench = VisionBench(save_vision_model(tmp_path, family), replace(SMALL_VISION, overlap=True))
    assert isinstance(bench.engine.runner, ImagePromptRunner)
    bench.engine.runner.inner = runner = graphed(bench.engine.runner.inner)
    runner.record(4, 256, capture=recorded, on_progress=lambda what, share: None)
    cases = {"one": (WIDE,), "two": (TALL, WIDE), "none": (), "again": (WIDE,)}
    for job_id, images in cases.items():
        bench.engine.add(bench.request(job_id, *images))
    events = bench.run()
    for job_id, images in cases.items():
        assert tokens(events, job_id) == bench.expected(*images)


@pytest.mark.parametrize("max_num_seqs", [1, 2, 7, 64, 100, 256, 500])
def test_recorded_steps_hold_every_batch_and_every_length(max_num_seqs: int) -> None:
    for max_model_len in (300, 8192, 131072):
        shapes = step_shapes(max_num_seqs, max_model_len, 256)
        longest = -(-max_model_len // 256)
        for size in range(1, max_num_seqs + 1):
            fitting = min(shape for shape in shapes if shape[0] >= size)
            assert fitting[0] <= max(2, size * 2) and max(b for s, b in shapes if s == fitting[0]) == longest
        assert shapes == sorted(shapes)


def test_more_sequences_than_the_largest_bucket_run_unrecorded() -> None:
    assert max(size for size, _ in step_shapes(4096, 8192, 256)) == BUCKETS[-1]


def test_a_function_that_waits_cannot_be_recorded() -> None:
    numbers = torch.tensor([1.0])
    with pytest.raises(RuntimeError, match="capturing"), Recording():
        bool((numbers > 0).all())


@pytest.mark.usefixtures("flash")
def test_a_model_that_cannot_be_recorded_runs_unrecorded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = as_on_a_gpu(bench)

    def refuses(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr("worker.runners.graphs.cuda_capture", lambda: refuses)
    runner.warm_up(8, 256, lambda what, share: None)
    bench.add("r", prompt_of(9))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(9))


@pytest.mark.usefixtures("flash")
def test_a_recorded_step_does_not_wait_for_the_gpu_before_its_tokens_are_read(bench: Bench) -> None:
    """Forward pass and sampling are launched without a result being needed on the CPU."""
    runner = as_on_a_gpu(bench)
    runner.record(8, 256, capture=recorded, on_progress=lambda what, share: None)
    for at in range(3):
        bench.add(f"r{at}", prompt_of(5 + at), temperature=1.0, seed=at)
    bench.step(2)
    with CountWaits() as waits:
        bench.step()
    assert waits.count == 0  # tolist() is seen below


@pytest.mark.parametrize(
    ("sampling", "most"),  # in turn; overlapped steps never ask
    [
        ({}, 0),
        ({"temperature": 1.0}, 0),
        ({"temperature": 1.0, "min_p": 0.1}, 0),
        ({"temperature": 1.0, "top_p": 0.9}, 1),  # whether the candidates hold it
        ({"temperature": 1.0, "top_k": 5}, 0),
        ({"temperature": 1.0, "top_k": 5, "top_p": 0.9}, 0),
    ],
)
def test_sampling_does_not_wait_for_the_device(sampling: dict[str, float], most: int) -> None:
    sequences = [sequence_with(**({"temperature": 0.0} | sampling), seed=at) for at in range(4)]
    logits = torch.arange(320.0).repeat(4, 1)
    with CountWaits() as waits:
        sample(logits, sequences, [0] * 4)
    assert waits.count <= most
    with CountWaits() as waits:
        sample(logits, sequences, [0] * 4, may_defer=True)
    assert waits.count == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recording_replays_what_it_recorded() -> None:
    inputs = torch.zeros(BUCKETS[3], device="cuda")
    replay: Callable[[], torch.Tensor] = cuda_capture()(lambda: inputs + 1)
    inputs.fill_(2)
    assert replay().tolist() == [3] * BUCKETS[3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_refused_recording_leaves_the_gpu_usable() -> None:
    inputs = torch.zeros(4, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"):
        cuda_capture()(lambda: inputs + inputs.sum().item())
    assert (inputs + 1).tolist() == [1] * 4
