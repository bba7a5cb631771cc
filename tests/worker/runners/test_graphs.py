"""The GPU's way of running a step, with its kernel written out and its recordings played by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.vision_models import save_vision_model
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.gpu_stand_ins import CountWaits, Recording, flash_kernel, recorded
from tests.worker.models.test_vision import SMALL as SMALL_VISION
from tests.worker.models.test_vision import TALL, WIDE, tokens
from tests.worker.models.test_vision import Bench as VisionBench
from tests.worker.sampling.test_sampler import sequence_with
from worker.attention.varlen import VarlenAttention, kernel_options, runs_varlen
from worker.kernels.elementwise import Elementwise, rotate, rotated
from worker.kernels.quantized import Fp8, Fp8Linear
from worker.models.loader import load
from worker.runners.base import Runner
from worker.runners.decoder import DecoderRunner
from worker.runners.graphs import BUCKETS, GraphedDecoderRunner, cuda_capture, step_shapes
from worker.runners.image_prompts import ImagePromptRunner
from worker.runners.layer_survey import survey_layers
from worker.runners.limits import block_size_for
from worker.runners.probe import PROBE_SEQS, Unsupported, check_equal, stock_logits, use_paged_attention
from worker.sampling.sampler import sample
from worker.state.kv_cache import KVCache

PAGE = 16


@pytest.fixture
def _kernel() -> Iterator[None]:
    library = flash_kernel(PAGE)
    yield
    library._destroy()


def as_on_a_gpu(bench: Bench) -> GraphedDecoderRunner:
    """Swap the engine's runner for the GPU's."""
    bench.engine.runner = runner = graphed(bench.engine.runner)
    return runner


def graphed(decoder: Runner) -> GraphedDecoderRunner:
    assert isinstance(decoder, DecoderRunner)
    runner = GraphedDecoderRunner.__new__(GraphedDecoderRunner)
    runner.__dict__.update(decoder.__dict__ | {"attend_with": VarlenAttention.of_rows, "steps": {}})
    return runner


def shapes_used(runner: GraphedDecoderRunner, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...]]]:
    """Of each replayed step: its rows, and the table they were filled into."""
    seen = []
    fill = runner._fill

    def noted(step, rows, drawn) -> None:  # type: ignore[no-untyped-def]
        seen.append((len(rows), tuple(step.attention.block_table.shape)))
        fill(step, rows, drawn)

    monkeypatch.setattr(runner, "_fill", noted)
    return seen


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}], ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_padded_decode_steps_and_ragged_ones_give_the_tokens_of_generate(
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


@pytest.mark.usefixtures("_kernel")
def test_steps_with_fp8_weights_give_the_same_tokens_recorded(model_folder: ModelFolder) -> None:
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


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_recorded_steps_go_on_after_images(family: str, tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("family", ["gemma3", "qwen3_5"])
def test_windows_and_layers_that_attend_are_passed_on_to_the_kernel(
    family: str, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(family))
    monkeypatch.setattr(bench.engine.runner, "attend_with", VarlenAttention.of_rows)
    bench.add("r", prompt_of(40))
    bench.add("s", prompt_of(23))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(40))
    assert bench.token_ids("s") == bench.generate(prompt_of(23))


@pytest.mark.parametrize(
    ("asked", "window", "num_splits"),
    [
        ((1, 32, 8, None), (-1, -1), None),  # heads that share keys become queries: parts are put together right
        ((1, 32, 32, None), (-1, 0), 1),
        ((1, 32, 8, 4096), (4095, 0), 1),
        ((2, 32, 8, None), (-1, 0), 1),
    ],
)
def test_keys_are_cut_in_parts_only_where_the_kernel_puts_them_together(
    asked: tuple[int, int, int, int | None], window: tuple[int, int], num_splits: int | None
) -> None:
    options = kernel_options(*asked)
    assert (options.window, options.num_splits) == (window, num_splits)


@pytest.mark.usefixtures("_kernel")
def test_the_probe_finds_a_kernel_that_is_wrong_for_the_second_sequence(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(str(model_folder()), ("tiny",), SMALL, lambda what, share: None).model
    expected = stock_logits(model)
    layers = survey_layers(model, PAGE)
    use_paged_attention(model)
    cache = KVCache(layers.shapes, PROBE_SEQS, PAGE, torch.float32, torch.device("cpu"))
    runner = GraphedDecoderRunner(model, cache, layers.specs)
    runner.elementwise = Elementwise()
    check_equal(runner, model, expected)
    monkeypatch.setattr(
        "worker.attention.varlen.kernel_options", lambda *asked: SimpleNamespace(window=(-1, 0), num_splits=None)
    )
    with pytest.raises(Unsupported, match="differ"):
        check_equal(runner, model, expected)


@pytest.mark.usefixtures("_kernel")
def test_ranks_can_ask_beforehand_whether_the_kernel_takes_their_shapes(bench: Bench) -> None:
    cache = bench.engine.runner.kv_cache
    before = [pool.clone() for pool in cache.keys]
    assert runs_varlen(cache)
    assert all(torch.equal(*pair) for pair in zip(before, cache.keys, strict=True))


def test_without_the_kernel_they_hear_no(bench: Bench) -> None:
    assert not runs_varlen(bench.engine.runner.kv_cache)


def test_a_gpus_blocks_are_pages_that_the_kernel_takes() -> None:
    assert block_size_for(torch.device("cuda")) % 256 == 0


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


def test_a_recording_refuses_to_wait() -> None:
    numbers = torch.tensor([1.0])
    with pytest.raises(RuntimeError, match="capturing"), Recording():
        bool((numbers > 0).all())


@pytest.mark.usefixtures("_kernel")
def test_a_model_that_cannot_be_recorded_is_served_without(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = as_on_a_gpu(bench)

    def refuses(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr("worker.runners.graphs.cuda_capture", lambda: refuses)
    runner.warm_up(8, 256, lambda what, share: None)
    bench.add("r", prompt_of(9))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(9))


@pytest.mark.usefixtures("_kernel")
def test_a_recorded_step_waits_for_the_gpu_once_when_its_tokens_are_read(bench: Bench) -> None:
    """Forward and draws are all under way before Python asks for anything."""
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
def test_draws_do_not_ask_the_device_what_the_requests_said(sampling: dict[str, float], most: int) -> None:
    sequences = [sequence_with(**({"temperature": 0.0} | sampling), seed=at) for at in range(4)]
    logits = torch.arange(320.0).repeat(4, 1)
    with CountWaits() as waits:
        sample(logits, sequences, [0] * 4)
    assert waits.count <= most
    with CountWaits() as waits:
        sample(logits, sequences, [0] * 4, may_defer=True)
    assert waits.count == 0


def test_the_rotation_for_compilers_is_the_same() -> None:
    wide = torch.randn(5, 12 * 16)
    heads, cos, sin = wide[:, : 8 * 16].view(5, 8, 16), torch.randn(5, 1, 16), torch.randn(5, 1, 16)
    out_of_place = rotated(heads, cos, sin)
    assert torch.allclose(out_of_place, rotate(heads, cos, sin), atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recording_replays_what_it_recorded() -> None:
    inputs = torch.zeros(BUCKETS[3], device="cuda")
    replay: Callable[[], torch.Tensor] = cuda_capture()(lambda: inputs + 1)
    inputs.fill_(2)
    assert replay().tolist() == [3] * BUCKETS[3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_function_that_waits_is_refused_and_leaves_the_gpu_as_it_was() -> None:
    inputs = torch.zeros(4, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"):
        cuda_capture()(lambda: inputs + inputs.sum().item())
    assert (inputs + 1).tolist() == [1] * 4
