"""The probe compares a runner with the stock model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.worker import gpu_stand_ins
from tests.worker.conftest import SMALL, ModelFolder
from tests.worker.gpu_stand_ins import PAGE
from worker.attention.kernel import KernelAttention
from worker.kernels.gpu.paged_attention import Pages, Tiles
from worker.models.loader import load
from worker.runners.base import ModelRunner
from worker.runners.layer_survey import survey_layers
from worker.runners.probe import (
    GPU_PROBE_LENGTH,
    MAX_DEVIATION,
    MOST_EXPLAINED,
    PROBE_SEQS,
    Unsupported,
    check_equal,
    stock_logits,
)
from worker.runners.probe import use_paged_attention as use_paged
from worker.state.kv_cache import KVCache

Attend = Callable[..., None]


def wrong_for_the_second_sequence(
    query: torch.Tensor, pages: Pages, tiles: Tiles, out: torch.Tensor, **asked: Any
) -> None:
    gpu_stand_ins.attend(query, pages, tiles, out, **asked)
    out[int(tiles.query_starts[1]) :] = 0


def wrong_in_the_second_block(query: torch.Tensor, pages: Pages, tiles: Tiles, out: torch.Tensor, **asked: Any) -> None:
    first = pages.block_table[:, :1].expand_as(pages.block_table)
    gpu_stand_ins.attend(query, replace(pages, block_table=first), tiles, out, **asked)


def wrong_for_split_keys(*args: Any, num_splits: int = 1, **asked: Any) -> None:
    gpu_stand_ins.attend(*args, **asked)
    if num_splits > 1:
        args[-1].zero_()


def probed(folder: Any, attend: Attend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises Unsupported if the probe finds that the kernel is wrong."""
    monkeypatch.setattr("worker.attention.kernel.attend", attend)
    model = load(str(folder), ("tiny",), SMALL, lambda what, share: None).model
    expected = stock_logits(model)
    layers = survey_layers(model, PAGE)
    use_paged(model)
    num_blocks = PROBE_SEQS * -(-GPU_PROBE_LENGTH // PAGE)
    cache = KVCache(layers.shapes, num_blocks, PAGE, torch.float32, torch.device("cpu"))
    check_equal(ModelRunner(model, cache, KernelAttention.of_rows), model, expected)


@pytest.mark.parametrize(
    ("attend", "is_found"),
    [
        (gpu_stand_ins.attend, False),
        (wrong_for_the_second_sequence, True),
        (wrong_in_the_second_block, False),
        (wrong_for_split_keys, False),
    ],
)
def test_the_short_probe_of_a_cpu_detects_a_kernel_that_is_wrong_for_the_second_sequence(
    attend: Attend, is_found: bool, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_found:
        return probed(model_folder(), attend, monkeypatch)
    with pytest.raises(Unsupported, match="differ"):
        probed(model_folder(), attend, monkeypatch)


@pytest.mark.parametrize(
    ("dtype", "number", "said"),
    [
        (torch.float32, torch.nan, "its logits are NaN: its weights are damaged. Copy"),
        (torch.bfloat16, torch.nan, "its logits are NaN: its weights are damaged, or too large for bfloat16. Copy"),
        (torch.float32, torch.inf, "its logits are infinite: "),
    ],
)
def test_a_model_whose_logits_are_not_finite_says_so(dtype: torch.dtype, number: float, said: str) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=64, **sizes), dtype=dtype).eval()
    with torch.no_grad():
        model.lm_head.weight[:] = 0 if number != number else 1e38
        model.model.norm.weight[3] = number if number != number else 1e38
    with pytest.raises(ValueError, match=said):
        stock_logits(model)


def test_a_model_that_enlarges_roundings_is_compared_by_its_own_roundings() -> None:
    """32 layers of weights of one size: right ways to run it in bf16 may differ by more than those of other models."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=512, initializer_range=0.08, **sizes, **heads)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    expected = stock_logits(model)
    assert MAX_DEVIATION[torch.bfloat16] < expected.most <= MOST_EXPLAINED
    assert torch.equal(stock_logits(model).logits, expected.logits)  # the rounding has left no trace
    layers = survey_layers(model, PAGE)
    use_paged(model)
    cache = KVCache(layers.shapes, 2 * PROBE_SEQS, PAGE, torch.bfloat16, torch.device("cpu"))
    runner = ModelRunner(model, cache)
    check_equal(runner, model, expected)
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1.5
    with pytest.raises(Unsupported, match=r"differ by .*, and rounding explains 0\."):
        check_equal(runner, model, expected)


@pytest.mark.parametrize("attend", [wrong_for_the_second_sequence, wrong_in_the_second_block, wrong_for_split_keys])
def test_the_longer_probe_of_a_gpu_reaches_further_blocks_and_split_keys(
    attend: Attend, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runners.probe.probe_length", lambda model: GPU_PROBE_LENGTH)
    probed(model_folder(), gpu_stand_ins.attend, monkeypatch)
    with pytest.raises(Unsupported, match="differ"):
        probed(model_folder(), attend, monkeypatch)
