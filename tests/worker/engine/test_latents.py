"""Models over latents in the engine: batches, prefixes, preemption, resuming, drafts and fp8 index keys."""

from dataclasses import replace

import pytest
import torch

from common.wire import Finished
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.engine.test_resume import log_of, run
from worker.models.loader import load
from worker.runners.choose import build_runner
from worker.runners.latent.runner import LatentRunner

BLOCK = 16
TOPK = 16
BYTES_PER_BLOCK = 2 * (24 + 16) * 4 * BLOCK  # layers x (latents and index keys) x float32 x tokens
MODES = {"in-turn": SMALL, "overlapped": replace(SMALL, overlap=True), "drafted": replace(SMALL, speculate=4)}
REPEATED = prompt_of(12) * 5  # which drafts continue


@pytest.fixture(scope="module", params=["deepseek_v3", "deepseek_v32"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bench_of(model_folder: ModelFolder, family: str, config: object = SMALL) -> Bench:
    changes = {"index_topk": TOPK} if family == "deepseek_v32" else {}
    bench = Bench(model_folder(family, **changes), config)  # type: ignore[arg-type]
    assert type(bench.engine.runner) is LatentRunner
    return bench


@pytest.mark.parametrize("mode", MODES)
def test_answers_of_a_batch_with_a_shared_prefix_are_those_of_generate(
    mode: str, family: str, model_folder: ModelFolder
) -> None:
    bench = bench_of(model_folder, family, MODES[mode])
    prompts = {"a": REPEATED, "b": [*REPEATED[:40], *prompt_of(9)], "c": prompt_of(5)}
    for request_id, prompt in prompts.items():
        bench.add(request_id, prompt)
        bench.step(5)
    bench.finish()
    bench.add("d", [*REPEATED, *bench.token_ids("a")[:10]], max_tokens=10)
    bench.finish()
    for request_id, prompt in prompts.items():
        assert bench.token_ids(request_id) == bench.generate(prompt)
    assert bench.token_ids("d") == bench.token_ids("a")[10:]
    end = bench.end("d")
    assert isinstance(end, Finished) and end.cached_tokens >= 64
    assert bench.engine.stats().draft_tokens > 0 or mode != "drafted"


def test_when_memory_runs_out_the_youngest_waits_and_answers_stay_the_same(model_folder: ModelFolder) -> None:
    config = replace(SMALL, max_model_len=64, max_step_tokens=64, kv_memory_bytes=7 * BYTES_PER_BLOCK)
    bench = bench_of(model_folder, "deepseek_v32", config)
    assert bench.engine.stats().kv_blocks_total == 7  # by the bytes of latents and index keys
    bench.engine.scheduler.forecast.answers.share = 0.0  # it expects short answers, and is wrong
    for seed in range(3):
        bench.add(f"r{seed}", prompt_of(20, seed), max_tokens=40)
    bench.finish()
    assert bench.engine.stats().num_preemptions > 0
    for seed in range(3):
        assert bench.token_ids(f"r{seed}") == bench.generate(prompt_of(20, seed), 40)


def test_an_answer_goes_on_where_its_log_ends(family: str, model_folder: ModelFolder) -> None:
    bench = bench_of(model_folder, family)
    request = bench.request("r", prompt_of(30), max_tokens=12, temperature=1.0, seed=7)
    *deltas, _ = run(bench, request)
    successor = bench_of(model_folder, family)
    for cut in (0, 1, len(deltas) // 2, len(deltas)):
        *rest, _ = run(successor, request, log_of(deltas[:cut]))
        assert log_of([*deltas[:cut], *rest]) == log_of(deltas)


def test_in_bf16_index_keys_take_a_byte_a_number(family: str, model_folder: ModelFolder) -> None:
    bench = bench_of(model_folder, family, replace(SMALL, dtype="bfloat16"))
    cache = bench.engine.runner.kv_cache
    values = cache.values[0]
    assert (values.dtype, values.shape[3]) == (
        (torch.uint8, 16 + 4) if family == "deepseek_v32" else (torch.bfloat16, 0)
    )
    bench.add("long", prompt_of(60))
    bench.add("short", prompt_of(7))
    bench.finish()
    assert len(bench.token_ids("long")) == len(bench.token_ids("short")) == 20


def test_an_fp8_cache_is_refused_by_its_setting(model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(str(model_folder("deepseek_v3")), ("tiny",), SMALL, lambda what, share: None)
    monkeypatch.setattr("worker.runners.choose.check_kv_dtype", lambda config, device: None)
    with pytest.raises(ValueError, match=r"OMNI_KV_DTYPE=fp8 does not fit .*; set it to auto\."):
        build_runner(loaded, replace(SMALL, kv_dtype="fp8"))
