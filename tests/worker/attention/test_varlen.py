"""Attention by torch's flash kernel, which is replaced on a CPU by an equivalent with its checks and its bugs."""

import pytest
import torch

from tests.worker.conftest import Bench, ModelFolder, prompt_of
from worker.attention.varlen import VarlenAttention, fits_varlen, kernel_options, runs_varlen


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("family", ["gemma3", "qwen3_5"])
def test_the_kernel_gets_the_windows_and_the_places_of_layers(
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
def test_keys_are_cut_into_parts_only_where_the_kernel_combines_them_correctly(
    asked: tuple[int, int, int, int | None], window: tuple[int, int], num_splits: int | None
) -> None:
    options = kernel_options(*asked)
    assert (options.window, options.num_splits) == (window, num_splits)


@pytest.mark.usefixtures("flash")
def test_a_trial_of_the_kernel_writes_nothing(bench: Bench) -> None:
    cache = bench.engine.runner.kv_cache
    before = [pool.clone() for pool in cache.keys]
    assert runs_varlen(cache)
    assert all(torch.equal(*pair) for pair in zip(before, cache.keys, strict=True))


def test_a_trial_fails_without_the_kernel(bench: Bench) -> None:
    assert not runs_varlen(bench.engine.runner.kv_cache)


def test_a_torch_whose_kernel_takes_no_block_tables_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert fits_varlen(gpu, torch.bfloat16) and not fits_varlen(gpu, torch.float32)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, key, value, *, scale, window_size: query)
    assert not fits_varlen(gpu, torch.bfloat16)
