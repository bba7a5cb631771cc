"""The size of steps and of the KV cache. No GPU is needed: torch's answers are replaced."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.worker.conftest import SMALL
from worker.models.loader import EngineConfig, LoadedModel
from worker.runners import limits
from worker.runners.limits import block_size_for, burst_size
from worker.state.kv_cache import LayerShape

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30
SHAPES = [LayerShape(8, 128, 128)] * 32  # of an 8B Llama: 128 KiB a token, 32 MiB a block of 256


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
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda of: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return limits.choose_limits(gpu_model(max_model_len), config, SHAPES, 8_000_000_000)


def test_a_block_is_reserved_for_padding_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the longest sequence of the card would never get all its blocks."""
    for free, max_num_seqs in ((8 * GIB, 8), (64 * GIB, 1)):
        found = chosen(free, 131072, monkeypatch, replace(SMALL, max_num_seqs=max_num_seqs))
        assert (found.num_blocks - 1) * found.block_size >= found.max_model_len
    with pytest.raises(ValueError, match="131072 needs more KV memory"):
        chosen(8 * GIB, 131072, monkeypatch, replace(SMALL, max_model_len=131072))


def test_a_gpu_filled_by_the_weights_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"0 bytes are left .* takes 33554432"):
        chosen(GIB, 8192, monkeypatch)


def test_larger_steps_leave_less_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = chosen(40 * GIB, 131072, monkeypatch, EngineConfig())
    wide = chosen(40 * GIB, 131072, monkeypatch, EngineConfig(max_step_tokens=32768, max_num_seqs=1024))
    assert wide.num_blocks < usual.num_blocks < 0.9 * 40 * 32


def test_blocks_on_a_gpu_are_pages_that_the_kernel_accepts() -> None:
    assert block_size_for(torch.device("cuda")) % 256 == 0
