"""The steps that a GPU's start runs: afterwards no step launches a form of a kernel that is not compiled."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.conftest import SMALL, Bench, ModelFolder
from tests.worker.drafting.head_models import eagle3_tensors, save_eagle3
from worker.drafting.heads import HeadGuesser
from worker.load_failure import is_passing
from worker.models.load_fault import reason
from worker.models.loader import load
from worker.progress import FIRST_STEP
from worker.runners.base import ModelRunner, kernel_order
from worker.runners.layer_survey import survey_layers
from worker.runners.probe import probe_sequence, use_paged_attention
from worker.sampling import sampler
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

pytest.importorskip("triton")
compiled_forms = pytest.importorskip("tests.worker.compiled_forms")
decoders = pytest.importorskip("worker.runners.triton_decoder")
kernel = pytest.importorskip("worker.attention.kernel")
recordings = pytest.importorskip("worker.runners.recorded.recordings")
first_steps = pytest.importorskip("worker.runners.recorded.first_steps")
buffers = pytest.importorskip("worker.runners.recorded.buffers")
tuning = pytest.importorskip("worker.kernels.tuning")
weights = pytest.importorskip("worker.kernels.packed.encodings")

H100 = 132  # multiprocessors
PAGE = 64
MODEL_LEN = 4096
MOST_TOKENS = 4096
MOST_SEQS = 512
DRAFT = 3
NUM_STEPS = 60
CHANGES = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "max_position_embeddings": MODEL_LEN}


@pytest.fixture(autouse=True)
def large_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are split and products cut as for an H100; samples are drawn by the kernel."""
    monkeypatch.setattr(kernel, "num_multiprocessors", lambda device: H100)
    monkeypatch.setattr(tuning, "num_multiprocessors", lambda device: H100)
    monkeypatch.setattr(sampler, "has_kernel", lambda device: True)


def runner_of(folder: Path, kind: type[ModelRunner], cache_dtype: torch.dtype | None = None) -> ModelRunner:
    """A runner in bf16 with the kernels, over a small cache."""
    model = load(str(folder), ("tiny",), SMALL, lambda what, share: None).model.bfloat16()
    layers = survey_layers(model, MODEL_LEN)
    use_paged_attention(model)
    cache = KVCache(layers.shapes, 8, PAGE, cache_dtype or model.dtype, torch.device("cpu"))
    specs = [layers.specs] if issubclass(kind, decoders.DecoderRunner) else []
    return kind(model, cache, *specs, kernel.KernelAttention.of_rows)


def run_first(runner: ModelRunner, on_progress: Any = lambda what, share: None) -> Any:
    """The first steps of a start; returns what recorded them."""
    found = recordings.Recordings(DRAFT, MOST_TOKENS)
    found._spare = buffers.Spare(runner.kv_cache.pool.allocate(1)[0], PAGE)
    found.run_first(runner, first_steps.Sizes(MOST_SEQS, MOST_TOKENS, MODEL_LEN, DRAFT), on_progress)
    return found


def step_of(parts: list[tuple[int, int, int]]) -> list[ScheduledSequence]:
    """(tokens before, tokens, drafted tokens) of each row."""
    rows = []
    for start, num_tokens, num_drafted in parts:
        sequence = probe_sequence([1] * (start + num_tokens))
        sequence.block_ids = [3] * -(-(start + num_tokens + num_drafted) // PAGE)
        sequence.draft = [1] * num_drafted
        sequence.begin_at(start)
        rows.append(ScheduledSequence(sequence, num_tokens))
    return sorted(rows, key=kernel_order)


def steps_as_served(seed: int = 0) -> Iterator[list[ScheduledSequence]]:
    """Decodes, prompt chunks and drafts in any mix, at any place."""
    dice = random.Random(seed)
    yield step_of([(0, 1, 0)])
    yield step_of([(MODEL_LEN - 1, 1, 0)] * MOST_SEQS)
    for _ in range(NUM_STEPS):
        num_seqs = int(2 ** dice.uniform(0, 9))
        parts = [(int(2 ** dice.uniform(0, 12)) - 1, 1, dice.choice((0, 0, DRAFT))) for _ in range(num_seqs)]
        budget = int(2 ** dice.uniform(0, 12))
        for _ in range(dice.choice((0, 1, 1, 5, 40))):
            start = dice.choice((0, int(2 ** dice.uniform(0, 12)) - 1))
            num_tokens = min(budget, MODEL_LEN - start, dice.choice((2, 7, 16, 33, 250, MOST_TOKENS)))
            if num_tokens > 1:
                parts.append((start, num_tokens, 0))
                budget -= num_tokens
        fitting = [part for part in parts if part[0] + part[1] + part[2] <= MODEL_LEN]
        yield step_of(fitting[-dice.choice((1, 2, 9, MOST_SEQS)) :] or [(0, 1, 0)])


@torch.inference_mode()
def serve(runner: ModelRunner) -> None:
    """Steps as they are served, sampled greedily and by draws."""
    for number, rows in enumerate(steps_as_served()):
        logits = runner.forward(rows)
        sequences = [row.sequence for row in rows for _ in range(row.num_samples)]
        for sequence in sequences:
            sequence.sampling = first_steps.WAYS_TO_SAMPLE[number % 2]
        sampler.sample(logits, sequences, [0] * len(sequences)).read()


FAMILIES = [
    ("llama", {}, decoders.TritonDecoderRunner, None),
    ("llama", {"num_key_value_heads": 1}, decoders.TritonDecoderRunner, torch.float8_e4m3fn),
    ("gemma3", {"sliding_window": 700}, decoders.TritonDecoderRunner, None),
    ("llama", {}, ModelRunner, torch.float8_e4m3fn),
    ("qwen3", {}, ModelRunner, None),
    ("gpt_oss", {"sliding_window": 700}, ModelRunner, None),
    ("deepseek_v3", {"qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}, ModelRunner, None),
]


# by hand: tiles of one, few and many queries; keys that are read by one program or shared; and 8 or 64 shares
NUM_FORMS: dict[type[ModelRunner], dict[str, int]] = {
    decoders.TritonDecoderRunner: {
        "norm_kernel": 2, "rotate_and_write_kernel": 1, "gated_kernel": 1,
        "attention_kernel": 6, "combine_kernel": 6, "sample_kernel": 2,
    },
    ModelRunner: {"write_kernel": 1, "attention_kernel": 6, "combine_kernel": 6, "sample_kernel": 2},
}  # fmt: skip
WITH_WINDOWS = {"attention_kernel": 12, "combine_kernel": 9}  # of some layers; a window is within 8 shares
MORE_FORMS = {"gemma3": WITH_WINDOWS, "gpt_oss": WITH_WINDOWS}


@pytest.mark.parametrize(("family", "changes", "kind", "cache_dtype"), FAMILIES)
def test_steps_after_the_first_launch_no_new_form(
    family: str,
    changes: dict[str, Any],
    kind: type[ModelRunner],
    cache_dtype: torch.dtype | None,
    model_folder: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = runner_of(model_folder(family, **CHANGES | changes), kind, cache_dtype)
    forms = compiled_forms.Forms(monkeypatch)
    run_first(runner)
    known = forms.taken()
    serve(runner)
    assert forms.beyond(known) == {}
    assert {name: len(found) for name, found in known.items()} == NUM_FORMS[kind] | MORE_FORMS.get(family, {})


def test_numbers_of_a_step_would_make_forms_if_kernels_were_not_told(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control of the rules that forms are found by."""
    runner = runner_of(model_folder(**CHANGES), ModelRunner)
    forms = compiled_forms.Forms(monkeypatch, is_annotated=False)
    run_first(runner)
    known = forms.taken()
    serve(runner)
    assert {"attention_kernel", "combine_kernel", "write_kernel"} <= set(forms.beyond(known))


@torch.inference_mode()
def test_a_head_that_is_warm_launches_no_new_form(
    tmp_path: Path, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = save_eagle3(tmp_path, eagle3_tensors())
    bench = Bench(model_folder(), replace(SMALL, speculate=DRAFT, draft_model=str(head)))
    guesser = bench.engine.drafter.guesser
    assert isinstance(guesser, HeadGuesser)
    monkeypatch.setattr(guesser.head, "attend_with", kernel.KernelAttention.of_rows)
    bench.engine.runner.recordings = recordings.Recordings()
    monkeypatch.setattr("worker.runners.recorded.capture.cuda_capture", lambda **_: lambda function: function())
    forms = compiled_forms.Forms(monkeypatch)
    guesser.warm_up(8, 256, lambda what, share: None)
    known = forms.taken()
    for rows in steps_as_served():
        fitting = [row for row in rows if row.start + row.num_tokens <= 256]
        for row in fitting:
            row.sequence.draft, row.sequence.block_ids = [], [3] * 16
        num_tokens = sum(row.num_tokens for row in fitting)
        if fitting:
            token_ids, before = torch.ones(num_tokens, dtype=torch.long), torch.zeros(num_tokens, 32)
            guesser._run(fitting, token_ids, before)
    assert forms.found and forms.beyond(known) == {}


def test_products_of_any_number_of_rows_launch_no_new_form(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = compiled_forms.Forms(monkeypatch)
    dice = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 512, generator=dice).bfloat16()
    kinds = [kind for kind in weights.WEIGHTS if kind != "fp8_blocks"]
    linears = [
        tuning.ProductLinear(weights.WEIGHTS[kind](weight.clone()), bias)
        for kind in kinds
        for bias in (None, torch.zeros(256).bfloat16())
    ]
    tuning.launch_products(linears)
    known = forms.taken()
    for linear in linears:
        for num_rows in (1, 2, 3, 7, 16, 17, 32, 100, 128, 500, 512, 1000, 1024):
            linear(torch.zeros(num_rows, 512, dtype=torch.bfloat16))
    assert forms.found and forms.beyond(known) == {}


def test_they_leave_cache_and_pool_as_they_were(model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are in the spare block, which is cleared afterwards."""
    runner = runner_of(model_folder(**CHANGES), decoders.TritonDecoderRunner)
    runner.feature_layers = (0, 1, 2)
    forms = compiled_forms.Forms(monkeypatch)
    for pool in runner.kv_cache.keys + runner.kv_cache.values:
        pool[:, 0] = torch.nan
    told: list[tuple[str, float]] = []
    found = run_first(runner, lambda what, share: told.append((what, share)))
    assert found._spare.block == 0 and runner.kv_cache.pool.num_free == 7
    assert all((pool == 0).all() for pool in runner.kv_cache.keys + runner.kv_cache.values)
    assert runner.features is None and runner.kept is None and forms.found
    assert told[0] == ("first steps", FIRST_STEP) and all(what.startswith("first steps") for what, _ in told)


def test_too_little_memory_ends_the_start_with_one_sentence(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(model_folder(**CHANGES), decoders.TritonDecoderRunner)

    def has_no_memory(*args: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(runner, "unrecorded", has_no_memory)
    with pytest.raises(ValueError, match="the largest step") as caught:
        run_first(runner)
    assert not is_passing(caught.value)
    for setting in ("OMNI_GPU_MEMORY_UTILIZATION", "OMNI_MAX_NUM_SEQS", "OMNI_MAX_MODEL_LEN"):
        assert f"{setting}" in reason(caught.value) and reason(caught.value).endswith(".")


def test_a_first_step_that_fails_is_logged_and_the_others_run(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = runner_of(model_folder(**CHANGES), decoders.TritonDecoderRunner)
    compiled_forms.Forms(monkeypatch)
    unrecorded, sizes = runner.unrecorded, []

    def fails_for_single_tokens(rows: list[ScheduledSequence], *args: Any) -> torch.Tensor:
        sizes.append(sum(row.num_inputs for row in rows))
        if all(row.num_tokens == 1 for row in rows):
            raise RuntimeError("out of resource: shared memory")
        return unrecorded(rows, *args)

    monkeypatch.setattr(runner, "unrecorded", fails_for_single_tokens)
    run_first(runner)
    assert caplog.text.count("a first step fails") == 1 and len(sizes) > 8
    assert max(sizes) == MOST_TOKENS


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 0), (3, 3, 2, 5), (8, 16, 256, 3), (512, 512, 131072, 5), (4, 4096, 40, 0)]
)
def test_first_steps_keep_to_the_limits(sizes: tuple[int, int, int, int]) -> None:
    limits = first_steps.Sizes(*sizes)
    steps = list(limits.steps(range(1, 9)))
    most_tokens = min(limits.num_tokens, limits.num_seqs * limits.model_len)
    for parts in steps[:3]:
        assert 1 <= len(parts) <= limits.num_seqs
    assert sum(part.num_tokens for part in steps[0]) == most_tokens
    for part in (part for parts in steps for part in parts):
        assert part.num_tokens >= 1 and 0 <= part.start + part.num_tokens + part.num_drafted <= limits.model_len + (
            part.num_drafted if limits.model_len == 1 else 0
        )
    assert len(steps) <= 11
