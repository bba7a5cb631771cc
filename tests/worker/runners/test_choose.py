"""Which runners a device gets. No GPU is needed: only where a model runs is asked."""

import logging
from dataclasses import replace

import pytest
import torch

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.attention.kernel import KernelAttention
from worker.attention.latent.attention import LatentAttention
from worker.attention.paged import PagedAttention
from worker.attention.spec import AttentionSpec
from worker.engine.engine import Engine
from worker.models.loader import LoadedModel, load
from worker.runners import choose
from worker.runners.base import ModelRunner
from worker.runners.candidates import attention_makers, candidates, new_recordings, warn_without_triton
from worker.runners.decoder import DecoderRunner
from worker.runners.latent.native import NativeLatentRunner
from worker.runners.latent.runner import LatentRunner
from worker.runners.layer_survey import survey_layers
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.probe import stock_logits, use_paged_attention
from worker.runners.recorded.recordings import Recordings
from worker.runners.tensor_parallel import attends
from worker.runners.triton_decoder import TritonDecoderRunner
from worker.state.kv_cache import KVCache

CPU, GPU = torch.device("cpu"), torch.device("cuda")
KERNEL = KernelAttention.of_rows


def test_a_gpu_gets_our_kernels_first_and_torch_last() -> None:
    assert candidates(GPU) == [
        (TritonDecoderRunner, KERNEL),
        (DecoderRunner, KERNEL),
        (ModelRunner, KERNEL),
        (DecoderRunner, PagedAttention),
        (ModelRunner, PagedAttention),
    ]
    assert attention_makers(GPU) == [KERNEL, PagedAttention]


def test_a_gpu_without_triton_runs_on_torch_and_one_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_without_triton(GPU)
    warn_without_triton(CPU)
    assert not caplog.text
    monkeypatch.setattr("worker.runners.candidates.has_triton", lambda: False)
    monkeypatch.setattr("worker.runners.candidates.why_no_triton", lambda: "it is not installed")
    assert candidates(GPU) == [(DecoderRunner, PagedAttention), (ModelRunner, PagedAttention)]
    assert attention_makers(GPU) == [PagedAttention]
    warn_without_triton(GPU)
    assert caplog.text.count("Triton does not run") == 1 and "it is not installed" in caplog.text


def test_a_cpu_gets_none_of_the_gpus_parts(model_folder: ModelFolder) -> None:
    assert [maker for _, maker in candidates(CPU)] == [PagedAttention] * 3
    assert candidates(CPU)[0][0] is NativeDecoderRunner
    assert candidates(CPU, over_latents=True) == [
        (NativeLatentRunner, LatentAttention),
        (LatentRunner, LatentAttention),
    ]
    for family in ("llama", "gemma3"):
        bench = Bench(model_folder(family))
        assert isinstance(bench.engine.runner, ModelRunner) and bench.engine.runner.recordings is None
        bench.engine.warm_up(lambda what, share: None)


def test_on_a_gpu_what_runs_with_our_attention_is_recorded(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runners.candidates.uses_kernels", lambda device: True)
    loaded, cache = tried(model_folder())
    for maker, is_recorded in ((KERNEL, True), (PagedAttention, False)):
        recordings = new_recordings(ModelRunner(loaded.model, cache, maker), replace(SMALL, speculate=3), 16, 0.06)
        assert (recordings is not None) is is_recorded
        assert not isinstance(recordings, Recordings) or recordings.max_draft == 3


def tried(folder: object) -> tuple[LoadedModel, KVCache]:
    loaded = load(str(folder), ("tiny",), SMALL, lambda what, share: None)
    cache = choose.cache_to_try(loaded, survey_layers(loaded.model, 64), 12)
    use_paged_attention(loaded.model)
    return loaded, cache


@pytest.mark.parametrize("family", ["llama", "gemma3", "deepseek_v3"])
def test_a_runner_is_proven_again_with_an_fp8_cache(
    family: str, model_folder: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loaded = load(str(model_folder(family)), ("tiny",), SMALL, lambda what, share: None)
    layers = survey_layers(loaded.model, 64)
    use_paged_attention(loaded.model)
    runner = ModelRunner(loaded.model, choose.cache_to_try(loaded, layers, 12))
    choose.prove_fp8_cache(runner, loaded, layers)
    assert runner.kv_cache.keys[0].dtype == torch.float32
    deviation = float(caplog.text.rsplit("differ by ", 1)[1].split()[0])
    assert 1e-3 < deviation < 0.2


def test_a_model_whose_logits_fp8_changes_too_much_is_refused(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(str(model_folder()), ("tiny",), SMALL, lambda what, share: None)
    layers = survey_layers(loaded.model, 64)
    use_paged_attention(loaded.model)
    runner = ModelRunner(loaded.model, choose.cache_to_try(loaded, layers, 12))
    monkeypatch.setattr("worker.runners.choose.MAX_FP8_CACHE_DEVIATION", 1e-4)
    with pytest.raises(ValueError, match=r"OMNI_KV_DTYPE=fp8 does not fit llama: its logits differ .* auto"):
        choose.prove_fp8_cache(runner, loaded, layers)


def test_an_fp8_cache_on_a_cpu_is_refused_before_the_model_is_loaded(model_folder: ModelFolder) -> None:
    with pytest.raises(ValueError, match="OMNI_KV_DTYPE=fp8 needs a GPU"):
        Bench(model_folder(), replace(SMALL, kv_dtype="fp8"))


def test_experts_that_rounding_exchanges_refuse_no_runner(model_folder: ModelFolder) -> None:
    """In bf16: other experts for one token change the logits by 0.11 of their spread, roundings alone by 0.02."""
    assert type(Bench(model_folder("mixtral"), replace(SMALL, dtype="bfloat16")).engine.runner) is DecoderRunner


def test_an_fp8_cache_on_a_cpu_is_refused_for_a_model_that_came_another_way(model_folder: ModelFolder) -> None:
    loaded = load(str(model_folder()), ("tiny",), SMALL, lambda what, share: None)
    with pytest.raises(ValueError, match="OMNI_KV_DTYPE=fp8 needs a GPU"):
        Engine(loaded, replace(SMALL, kv_dtype="fp8"))


def test_a_model_that_runs_one_sequence_at_a_time_has_no_fp8_cache(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for user in ("models.loader", "runners.choose"):  # as on a GPU
        monkeypatch.setattr(f"worker.{user}.check_kv_dtype", lambda config, device: None)
    bench = Bench(model_folder("mamba"), replace(SMALL, kv_dtype="fp8"))
    assert caplog.text.count("OMNI_KV_DTYPE=fp8 has no effect") == 1
    bench.add("r", prompt_of(5), max_tokens=2)
    bench.finish()
    assert len(bench.token_ids("r")) == 2


@pytest.mark.parametrize("family", ["qwen3_next", "lfm2"])
def test_layers_that_attend_beside_layers_with_states_use_our_kernel(
    family: str, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "attention_makers", lambda device: [KERNEL, PagedAttention])
    loaded = load(str(model_folder(family)), ("tiny",), SMALL, lambda what, share: None)
    expected, layers = stock_logits(loaded.model), survey_layers(loaded.model, 64)
    use_paged_attention(loaded.model)
    runner = choose.hybrid_runner(loaded, layers, expected)
    assert runner.attend_with == KERNEL
    assert not runner.can_be_recorded


def test_ranks_try_the_kernel_on_every_layer_before_they_agree_on_it(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded, cache = tried(model_folder())
    specs = [AttentionSpec(scale=1.0)] * len(cache.shapes)
    free = cache.pool.num_free
    assert attends(KERNEL, cache, specs, torch.float32)
    assert not any(pool.any() for pool in cache.keys + cache.values)

    def fails(*args: object, **asked: object) -> None:
        raise TypeError("no such argument")

    monkeypatch.setattr("worker.attention.kernel.attend", fails)
    assert not attends(KERNEL, cache, specs, torch.float32)
    assert "not with KernelAttention.of_rows: no such argument" in caplog.text
    assert cache.pool.num_free == free
