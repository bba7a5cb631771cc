"""Recorded steps, on a CPU: CUDA graphs are replaced by an equivalent, the attention kernel mostly by torch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction

from tests.adapters import merge, new_adapter
from tests.vision_models import save_vision_model
from tests.worker import gpu_stand_ins
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.drafting.conftest import Longest
from tests.worker.drafting.head_models import eagle3_reference, eagle3_tensors, save_eagle3
from tests.worker.drafting.test_heads import LIMIT, NUM_AHEAD, Spied, deviation, with_eagle3
from tests.worker.gpu_stand_ins import PAGE, CountWaits, Recording, launched, recorded
from tests.worker.models.test_vision import SMALL as SMALL_VISION
from tests.worker.models.test_vision import TALL, WIDE, tokens
from tests.worker.models.test_vision import Bench as VisionBench
from tests.worker.sampling.test_sampler import sequence_with
from worker.attention.kernel import KernelAttention
from worker.attention.paged import PagedAttention
from worker.drafting import drafter
from worker.drafting.heads_recorded import RecordedGuesses
from worker.kernels.quantized import Fp8
from worker.kernels.quantized_linears import Fp8Linear
from worker.models.loader import load
from worker.runners.base import ModelRunner
from worker.runners.decoder import DecoderRunner
from worker.runners.image_prompts import ImagePromptRunner
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.parts.adapters import RunnerAdapters
from worker.runners.probe import probe_sequence, use_paged_attention
from worker.runners.recorded import buffers as buffers_module
from worker.runners.recorded import recordings as recordings_module
from worker.runners.recorded.capture import cuda_capture
from worker.runners.recorded.recordings import Recordings
from worker.runners.recorded.shapes import FEW_SEQS, NUM_SEQS, step_shapes
from worker.runners.triton_decoder import TritonDecoderRunner
from worker.sampling.sampler import sample
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

LENGTHS = (3, 40, 17)  # of prompts
NAMES = {"decode steps": "d", "decode steps with drafts": "v", "mixed steps": "m"}


@pytest.fixture(autouse=True)
def kernels_are_launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Recordings note the launches of interpreted kernels. Drafts are as long as there is room for."""
    monkeypatch.setattr(InterpretedFunction, "run", launched(InterpretedFunction.run))
    monkeypatch.setattr(drafter, "Lengths", Longest)
    yield


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention and cache writes by torch, where the interpreter would take minutes."""
    monkeypatch.setattr(KernelAttention, "write", PagedAttention.write)
    monkeypatch.setattr("worker.attention.kernel.attend", launched(gpu_stand_ins.attend))


def as_on_a_gpu(bench: Bench, max_draft: int = 0, kind: type[ModelRunner] = DecoderRunner) -> ModelRunner:
    """Replace the engine's runner by one with recorded steps."""
    bench.engine.runner = runner = on_a_gpu(bench.engine.runner, kind)
    record(runner, max_draft)
    return runner


def on_a_gpu(decoder: Any, kind: type[ModelRunner] = DecoderRunner) -> ModelRunner:
    runner = kind.__new__(kind if isinstance(decoder, NativeDecoderRunner) else type(decoder))
    runner.__dict__.update(decoder.__dict__ | {"attend_with": KernelAttention.of_rows})
    return runner


def record(runner: ModelRunner, max_draft: int = 0, max_num_seqs: int = 8, max_model_len: int = 256) -> Recordings:
    runner.recordings = recordings = Recordings(max_draft)
    recordings.record(runner, runner._run, max_num_seqs, max_model_len, recorded, lambda what, share: None)
    return recordings


def shapes_used(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """For each step the kind and the tokens of its recording: "d4"; "-" for an unrecorded one."""
    recordings, seen = runner.recordings, []
    assert isinstance(recordings, Recordings)
    step_for = recordings.step_for

    def noted(rows: Any) -> Any:
        step = step_for(rows)
        seen.append(f"{NAMES[step.shape.kind]}{step.shape.num_tokens}" if step is not None else "-")
        return step

    monkeypatch.setattr(recordings, "step_for", noted)
    return seen


def answer(bench: Bench, **sampling: Any) -> None:
    """Prompts of LENGTHS that arrive while others decode."""
    for num_tokens in LENGTHS:
        bench.add(f"r{num_tokens}", prompt_of(num_tokens), **sampling)
        bench.step(3)
    bench.finish()


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 4}),
        ("qwen3", {"num_key_value_heads": 1}),
        ("mistral", {"sliding_window": 24}),
    ],
    ids=str,
)
@pytest.mark.parametrize("overlap", [False, True], ids=["in-turn", "overlapped"])
def test_decode_and_mixed_steps_give_the_tokens_of_generate(
    overlap: bool, family: str, changes: dict[str, int], model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(family, **changes), replace(SMALL, overlap=overlap))
    seen = shapes_used(as_on_a_gpu(bench), monkeypatch)
    answer(bench)
    assert {"d1", "d2", "d4", "m64"} == set(seen)
    for num_tokens in LENGTHS:
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens))


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("kind", [DecoderRunner, ModelRunner])
@pytest.mark.parametrize("overlap", [False, True], ids=["in-turn", "overlapped"])
def test_steps_with_adapters_are_recorded_once_they_are_needed(
    overlap: bool,
    kind: type[ModelRunner],
    model_folder: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Beside the base's own recordings; other adapters use them too, until one needs more room."""
    monkeypatch.setattr(RunnerAdapters, "on_gpu", True)
    folder = model_folder("llama" if kind is DecoderRunner else "gpt_neox")
    ranks = {"one": 3, "two": 5, "three": 30}
    adapters = {name: new_adapter(folder, tmp_path / name, rank) for name, rank in ranks.items()}
    bench = Bench(folder, replace(SMALL, overlap=overlap))
    runner = as_on_a_gpu(bench, kind=kind)
    bench.engine.adapters.attach(runner)
    recordings = runner.recordings
    assert isinstance(recordings, Recordings)
    seen = shapes_used(runner, monkeypatch)
    for names in (["", "one", "two"], ["three", "one", ""]):
        for name in set(names) - {"", *bench.engine.adapters.revisions}:
            bench.engine.adapters.load(name, str(adapters[name]))
        for name in names:
            request = bench.request(f"{name} of {names}", prompt_of(20), max_tokens=8)
            bench.engine.add(replace(request, adapter=name))
            bench.step(2)
        bench.finish()
        assert "-" not in seen and all(recordings.with_adapters.values())
        for name in names:
            bench.folder = merge(folder, adapters[name], tmp_path / f"merged {name} {names}") if name else folder
            assert bench.token_ids(f"{name} of {names}") == bench.generate(prompt_of(20), 8), name


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("family", ["gemma3", "gpt_neox", "mixtral", "gemma4", "phi3"])
def test_models_that_run_by_themselves_are_recorded_too(
    family: str, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(family))
    model = load(str(bench.folder), ("tiny",), SMALL, lambda stage, fraction: None).model
    use_paged_attention(model)
    bench.engine.runner = runner = ModelRunner(model, bench.engine.runner.kv_cache, KernelAttention.of_rows)
    record(runner)
    seen = shapes_used(runner, monkeypatch)
    answer(bench)
    assert {"d1", "d2", "d4", "m64"} == set(seen)
    for num_tokens in LENGTHS:
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens))


@pytest.mark.usefixtures("fast")
def test_drafts_of_mixed_lengths_are_verified_in_recorded_steps(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(), replace(SMALL, max_step_tokens=64, speculate=3))
    seen = shapes_used(as_on_a_gpu(bench, max_draft=3), monkeypatch)
    repeated = {f"r{at}": (prompt_of(5 + at) * 4)[: 12 + at] for at in range(3)}
    for name, prompt in repeated.items():
        bench.add(name, prompt, max_tokens=40)
        bench.step(2)
    bench.finish()
    assert {shape[0] for shape in seen} == {"d", "v", "m"} and len({shape for shape in seen if shape[0] == "v"}) > 1
    for name, prompt in repeated.items():
        assert bench.token_ids(name) == bench.generate(prompt, 40)


def interpreted(bench: Bench) -> TritonDecoderRunner:
    """A GPU's runner over the engine's cache, all of it in the interpreter."""
    specs = [layer.spec for layer in bench.engine.runner.layers]  # type: ignore[attr-defined]
    model = load(str(bench.folder), ("tiny",), SMALL, lambda stage, fraction: None).model  # that has its weights still
    return TritonDecoderRunner(model, bench.engine.runner.kv_cache, specs, KernelAttention.of_rows)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, about what padding tokens hold
def test_every_kernel_of_a_recorded_step_is_replayed(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the GPU's code but the recording itself."""
    bench = Bench(model_folder(), replace(SMALL, max_num_seqs=2, overlap=True))
    monkeypatch.setattr("worker.runners.recorded.shapes.MIXED_TOKENS", (16,))
    bench.engine.runner = runner = interpreted(bench)
    record(runner, max_num_seqs=2)
    seen = shapes_used(runner, monkeypatch)
    bench.add("a", prompt_of(7), max_tokens=4)
    bench.add("b", prompt_of(3), max_tokens=2)
    bench.finish()
    assert {"d1", "d2", "m16"} == set(seen)
    assert bench.token_ids("a") == bench.generate(prompt_of(7), 4)
    assert bench.token_ids("b") == bench.generate(prompt_of(3), 2)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn], ids=str)
def test_recorded_drafts_over_any_cache_get_the_logits_of_unrecorded_ones(
    dtype: torch.dtype, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are shared among programs, and a draft reaches a second block."""
    for name, sizes in (("NUM_SEQS", (2,)), ("VERIFIED_SEQS", (2,)), ("VERIFIED_TOKENS", (4,)), ("MIXED_TOKENS", ())):
        monkeypatch.setattr(f"worker.runners.recorded.shapes.{name}", sizes)
    runner = interpreted(Bench(model_folder()))
    runner.kv_cache = KVCache(runner.kv_cache.shapes, 6, PAGE, dtype, torch.device("cpu"))
    sequences = [probe_sequence(prompt_of(num_tokens)) for num_tokens in (15, 4)]
    for sequence in sequences:
        sequence.block_ids = runner.kv_cache.pool.allocate(2)
    runner.forward([ScheduledSequence(sequence, len(sequence.token_ids)) for sequence in sequences])
    for sequence, draft in zip(sequences, ([7, 8, 9], []), strict=True):
        sequence.advance(len(sequence.token_ids))
        sequence.append(5)
        sequence.draft = draft
    rows = [ScheduledSequence(sequence, 1) for sequence in sequences]
    expected = runner.forward(rows)
    record(runner, max_draft=3, max_num_seqs=2, max_model_len=1024)
    seen = shapes_used(runner, monkeypatch)
    assert torch.allclose(runner.forward(rows), expected, atol=1e-5)
    assert seen == ["v8"] and expected.shape[0] == 5


@pytest.mark.usefixtures("fast")
def test_recorded_steps_with_fp8_weights_give_the_same_tokens(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), replace(SMALL, quantization=Fp8()))
    bench.engine.runner = runner = on_a_gpu(bench.engine.runner)
    assert isinstance(runner, DecoderRunner)
    products = runner.products
    assert all(isinstance(product, Fp8Linear) for product in products)
    answer(bench, ignore_eos=True)
    unrecorded = [bench.token_ids(f"r{length}") for length in LENGTHS]
    bench.events.clear()
    record(runner)
    answer(bench, ignore_eos=True)
    assert [bench.token_ids(f"r{length}") for length in LENGTHS] == unrecorded


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_recorded_steps_continue_after_images(family: str, tmp_path: Path) -> None:
    bench = VisionBench(save_vision_model(tmp_path, family), replace(SMALL_VISION, overlap=True))
    assert isinstance(bench.engine.runner, ImagePromptRunner)
    bench.engine.runner.inner = runner = on_a_gpu(bench.engine.runner.inner)
    record(runner, max_num_seqs=4)
    cases = {"one": (WIDE,), "two": (TALL, WIDE), "none": (), "again": (WIDE,)}
    for job_id, images in cases.items():
        bench.engine.add(bench.request(job_id, *images))
    events = bench.run()
    for job_id, images in cases.items():
        assert tokens(events, job_id) == bench.expected(*images)


@pytest.mark.usefixtures("fast")
def test_steps_that_fit_no_recording_run_without_one(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many tokens, too many sequences, a sequence longer than the recording's block table."""
    monkeypatch.setattr("worker.runners.recorded.shapes.MIXED_TOKENS", (8,))
    bench = Bench(model_folder())
    bench.engine.runner = runner = on_a_gpu(bench.engine.runner)
    runner.recordings = recordings = Recordings()
    recordings.record(runner, runner._run, 2, 32, recorded, lambda what, share: None)
    seen = shapes_used(runner, monkeypatch)
    answer(bench)
    assert {"-", "d1"} <= set(seen)
    for num_tokens in LENGTHS:
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens))


@pytest.mark.parametrize("max_num_seqs", [1, 2, 7, 64, 100, 256, 500])
@pytest.mark.parametrize("max_draft", [0, 4])
def test_recorded_shapes_are_few_and_hold_every_batch(max_num_seqs: int, max_draft: int) -> None:
    shapes = step_shapes(max_num_seqs, max_draft, 48, 16)
    assert shapes == sorted(shapes, reverse=True) and len(shapes) <= (34 if max_draft == 0 else 64)
    decodes = [shape for shape in shapes if shape.kind == "decode steps"]
    for size in range(1, max_num_seqs + 1):
        assert size <= min(shape.num_seqs for shape in decodes if shape.num_seqs >= size) <= max(2, size * 2)
    assert any(shape.num_seqs == min(max_num_seqs, FEW_SEQS) and shape.num_tiles for shape in shapes)


def test_more_sequences_than_the_largest_bucket_run_unrecorded() -> None:
    assert max(shape.num_seqs for shape in step_shapes(4096, 0, 48, 16)) == NUM_SEQS[-1]


def test_a_function_that_waits_cannot_be_recorded() -> None:
    numbers = torch.tensor([1.0])
    with pytest.raises(RuntimeError, match="capturing"), Recording():
        bool((numbers > 0).all())


@pytest.mark.usefixtures("fast")
def test_a_model_that_cannot_be_recorded_runs_unrecorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning for each kind of step, not for each shape."""
    bench.engine.runner = runner = on_a_gpu(bench.engine.runner)

    def refuses(function: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(recordings_module, "cuda_capture", lambda **_: refuses)
    runner.recordings = Recordings()
    runner.warm_up(8, 256, lambda what, share: None)
    assert caplog.text.count("are not recorded: called a synchronizing") == 2
    bench.add("r", prompt_of(9))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(9))


@pytest.mark.usefixtures("fast")
def test_recorded_steps_with_other_logits_are_not_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.engine.runner = runner = on_a_gpu(bench.engine.runner)
    runner.recordings = recordings = Recordings()
    monkeypatch.setattr(recordings_module, "cuda_capture", lambda **_: recorded)
    runner.warm_up(8, 256, lambda what, share: None)
    assert recordings.steps
    runner.recordings = recordings = Recordings()
    broken = lambda function: recorded(function) and (lambda: None)  # noqa: E731  # replays nothing
    monkeypatch.setattr(recordings_module, "cuda_capture", lambda **_: broken)
    runner.warm_up(8, 256, lambda what, share: None)
    assert not recordings.steps and "recorded steps are not used: its logits differ" in caplog.text


@pytest.mark.usefixtures("fast")
def test_an_engine_that_has_run_its_first_steps_is_as_new(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Recorded and unrecorded steps run at its start; then it answers as transformers does, from an empty cache."""
    bench, told = Bench(model_folder(), replace(SMALL, speculate=NUM_AHEAD)), list[str]()
    bench.engine.runner = runner = on_a_gpu(bench.engine.runner)
    runner.recordings = recordings = Recordings(NUM_AHEAD, SMALL.max_step_tokens or 0)
    monkeypatch.setattr(recordings_module, "cuda_capture", lambda **_: recorded)
    before = bench.engine.stats()
    runner.warm_up(8, 256, lambda what, share: told.append(what))
    after = bench.engine.stats()
    assert after == replace(before, kv_blocks_used=before.kv_blocks_used + 1)  # the spare block
    assert recordings.steps and "first steps" in told and "fails" not in caplog.text
    assert recordings._spare is not None
    assert all((pool[:, recordings._spare.block] == 0).all() for pool in runner.kv_cache.keys)
    answer(bench)
    assert all(bench.token_ids(f"r{length}") == bench.generate(prompt_of(length)) for length in LENGTHS)


def test_an_engine_on_a_cpu_runs_no_first_steps_of_a_gpu(bench: Bench) -> None:
    told: list[str] = []
    bench.engine.warm_up(lambda what, share: told.append(what))
    assert told == ["first step", "ready"]


class CountLaunches(TorchDispatchMode):
    """Counts operators that launch a kernel: those that make new numbers. Views and empty tensors are free."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "empty" not in func.name():
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("fast")
def test_a_step_is_one_transfer_one_kernel_and_one_replay(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a recorded step there were about twenty launches."""
    bench = Bench(model_folder(), replace(SMALL, overlap=True))
    runner = as_on_a_gpu(bench)
    for at in range(3):
        bench.add(f"r{at}", prompt_of(5 + at))
    bench.step(2)
    recordings, seen = runner.recordings, []
    assert isinstance(recordings, Recordings)
    silent = [replace(step, replay=lambda step=step: seen.append("replay")) for step in recordings.steps]  # type: ignore[misc]
    monkeypatch.setattr(recordings, "steps", silent)
    monkeypatch.setattr("worker.runners.recorded.buffers.upload", lambda values, _: seen.append("transfer") or values)
    fill = buffers_module.fill_step
    monkeypatch.setattr("worker.runners.recorded.buffers.fill_step", lambda *args: seen.append("kernel") or fill(*args))
    rows = [ScheduledSequence(sequence, 1) for sequence in bench.engine.scheduler.running]
    sampled = torch.zeros(3, dtype=torch.long)
    with torch.inference_mode(), CountLaunches() as launches:
        runner.forward(rows, sampled)
    assert seen == ["transfer", "kernel", "replay"]
    assert launches.names == []


@pytest.mark.usefixtures("fast")
def test_recorded_steps_overlap_and_wait_for_nothing_but_the_last_tokens(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), replace(SMALL, overlap=True))
    as_on_a_gpu(bench)
    for num_tokens in LENGTHS:
        bench.add(f"r{num_tokens}", prompt_of(num_tokens))
        bench.step(2)
    with CountWaits() as waits:
        bench.step(4)
    assert waits.count == 0
    bench.finish()
    assert all(bench.token_ids(f"r{length}") == bench.generate(prompt_of(length)) for length in LENGTHS)


@pytest.mark.usefixtures("fast")
def test_a_recorded_step_does_not_wait_for_the_gpu_before_its_tokens_are_read(bench: Bench) -> None:
    """Forward pass and sampling are launched without a result being needed on the CPU."""
    as_on_a_gpu(bench)
    for at in range(3):
        bench.add(f"r{at}", prompt_of(5 + at), temperature=1.0, seed=at)
    with CountWaits() as waits:
        bench.step(3)
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
    inputs, outputs = torch.zeros(2, 8, device="cuda")

    def compute() -> None:
        outputs.copy_(inputs + 1)

    replay = cuda_capture()(compute)
    inputs.fill_(2)
    replay()
    assert outputs.tolist() == [3] * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_refused_recording_leaves_the_gpu_usable() -> None:
    inputs = torch.zeros(4, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"):
        cuda_capture()(lambda: inputs.add_(inputs.sum().item()))  # type: ignore[arg-type, return-value]
    assert (inputs + 1).tolist() == [1] * 4


@pytest.mark.usefixtures("fast")
def test_a_head_reads_the_hidden_states_of_recorded_steps_and_guesses_in_recorded_ones(
    tmp_path: Path, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = eagle3_tensors()
    bench = with_eagle3(model_folder(), save_eagle3(tmp_path, tensors))
    spied = Spied(bench)
    guesser = spied.guesser
    runner = as_on_a_gpu(bench, max_draft=NUM_AHEAD)
    guesser.runner, guesser.head.attend_with = runner, KernelAttention.of_rows
    guesser.recorded = RecordedGuesses(guesser.head, guesser.kv_cache, guesser.kv_cache.pool.num_blocks - 1)
    guesser.recorded.record(2, 256, torch.zeros(32), recorded)  # three sequences are not recorded
    seen = shapes_used(runner, monkeypatch)
    replayed: list[bool] = []
    replay = guesser.recorded.replay

    def noted(*args: Any) -> Any:
        found = replay(*args)
        replayed.append(found is not None)
        return found

    monkeypatch.setattr(guesser.recorded, "replay", noted)
    answer(bench, max_tokens=12, ignore_eos=True)
    assert {name[0] for name in seen} >= {"v", "m"}
    assert set(replayed) == {True, False}
    assert deviation(spied, eagle3_reference(model_folder(), tensors)) < LIMIT
