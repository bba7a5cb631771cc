"""The size of steps and of the KV cache. No GPU is needed: torch's answers are replaced."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV32Config

from tests.worker.conftest import SMALL
from worker.models.loader import EngineConfig, LoadedModel, check_kv_dtype
from worker.runners import limits
from worker.runners.limits import block_size_for, burst_size, gpu_share
from worker.state.kv_cache import LayerShape

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30
SHAPES = [LayerShape(8, 128, 128)] * 32  # of an 8B Llama: 128 KiB a token, 8 MiB a block of 64


@pytest.mark.parametrize(("num_parameters", "num_tokens"), [(6_000_000, 4096), (12_500_000, 2000), (146_000_000, 1024)])
def test_on_a_cpu_a_burst_step_is_larger_for_a_smaller_model(num_parameters: int, num_tokens: int) -> None:
    assert burst_size(CPU, num_parameters, 512) == num_tokens


def test_on_a_gpu_a_burst_step_is_like_others() -> None:
    assert burst_size(GPU, 6_000_000, 4096) == 4096


def gpu_model(max_model_len: int) -> LoadedModel:
    text = SimpleNamespace(intermediate_size=14336, hidden_size=4096, vocab_size=128256, num_hidden_layers=32)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    card = SimpleNamespace(max_model_len=max_model_len)
    return LoadedModel(model, None, card, torch.device("cuda"), torch.bfloat16)  # type: ignore[arg-type]


def chosen(
    free: int, max_model_len: int, monkeypatch: pytest.MonkeyPatch, config: EngineConfig = SMALL
) -> limits.Limits:
    """Of a card of 80 GiB, whose whole memory the worker may fill unless `config` says otherwise."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda of: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return limits.choose_limits(gpu_model(max_model_len), config, SHAPES, 8_000_000_000)


FULL = replace(SMALL, gpu_memory_utilization=1.0)


def test_a_block_is_reserved_for_padding_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the longest sequence of the card would never get all its blocks."""
    for free, max_num_seqs in ((8 * GIB, 8), (64 * GIB, 1)):
        found = chosen(free, 131072, monkeypatch, replace(FULL, max_num_seqs=max_num_seqs))
        assert (found.num_blocks - 1) * found.block_size >= found.max_model_len
    with pytest.raises(ValueError, match="131072 needs more KV memory"):
        chosen(8 * GIB, 131072, monkeypatch, replace(FULL, max_model_len=131072))


def test_a_gpu_filled_by_the_weights_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"=0\.9 of the GPU's 80\.0 GiB leaves no memory .* 76\.0 GiB are in use"):
        chosen(4 * GIB, 8192, monkeypatch)
    with pytest.raises(ValueError, match=r"bytes are left .* takes 16777216"):
        needed = limits.workspace_bytes(gpu_model(8192), FULL, 8_000_000_000)
        chosen(needed + 13 * 2**20, 8192, monkeypatch, FULL)


@pytest.mark.parametrize(
    ("share", "in_use", "workspace", "left"), [(0.9, 20, 2, 50), (0.5, 20, 2, 18), (1.0, 0, 0, 80)]
)
def test_the_share_is_of_the_whole_card_and_counts_what_others_use(
    share: float, in_use: int, workspace: int, left: int
) -> None:
    assert gpu_share((80 - in_use) * GIB, 80 * GIB, share, workspace * GIB) == left * GIB


def test_a_smaller_share_leaves_less_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    half, most = (
        chosen(60 * GIB, 131072, monkeypatch, EngineConfig(gpu_memory_utilization=share)) for share in (0.5, 0.9)
    )
    assert (most.num_blocks - half.num_blocks) * 8 * 2**20 == pytest.approx(0.4 * 80 * GIB, rel=0.001)


def test_an_fp8_cache_holds_twice_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, fp8 = (chosen(60 * GIB, 131072, monkeypatch, EngineConfig(kv_dtype=name)) for name in ("auto", "fp8"))
    assert fp8.num_blocks == pytest.approx(2 * usual.num_blocks, abs=1)


def test_larger_steps_leave_less_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = chosen(60 * GIB, 131072, monkeypatch, EngineConfig())
    wide = chosen(60 * GIB, 131072, monkeypatch, EngineConfig(max_step_tokens=32768, max_num_seqs=1024))
    assert wide.num_blocks < usual.num_blocks < (0.9 * 80 - 20) * 128


def test_blocks_on_a_gpu_are_as_long_as_a_tile_of_the_attention_kernel() -> None:
    assert block_size_for(torch.device("cuda")) == 64


@pytest.mark.parametrize(
    ("device", "num_ranks", "reason"), [("cpu", 1, "needs a GPU"), ("cuda", 2, "works on one GPU only")]
)
def test_an_fp8_cache_that_is_impossible_is_refused(device: str, num_ranks: int, reason: str) -> None:
    with pytest.raises(ValueError, match=f"OMNI_KV_DTYPE=fp8 {reason}"):
        check_kv_dtype(EngineConfig(kv_dtype="fp8", num_ranks=num_ranks), torch.device(device))
    check_kv_dtype(EngineConfig(num_ranks=num_ranks), torch.device(device))


def test_attention_over_latents_is_counted_in_a_steps_memory_and_time() -> None:
    config = DeepseekV32Config(num_hidden_layers=1)
    plain = SimpleNamespace(hidden_size=7168)
    assert limits.attention_numbers(plain) == 0 and limits.pair_products(plain) == 2 * 7168
    of_heads = 128 * (192 + 128 + 576 + 3 * 512)  # queries and values; absorbed queries; products with latents
    assert limits.attention_numbers(config) == of_heads + 64 * 128
    assert limits.pair_products(config) == 64 * 128  # beyond 2,048 keys a pair costs its index scores
    dense = DeepseekV3Config(num_hidden_layers=1)
    assert limits.pair_products(dense) == 128 * (576 + 512)
