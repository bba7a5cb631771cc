"""The GPU's decoder in Triton's interpreter: the logits of the stock model, and few kernels."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.worker.conftest import SMALL, ModelFolder, prompt_of
from tests.worker.interpreter import counted_launches, rounds_as_a_gpu
from worker.attention.paged import PagedAttention
from worker.kernels.experts.layer import expert_layer
from worker.models.loader import load
from worker.runners.base import AttentionMaker
from worker.runners.layer_survey import survey_layers
from worker.runners.probe import (
    PROBE_SEQS,
    Unsupported,
    check_equal,
    probe_sequence,
    stock_logits,
    use_paged_attention,
)
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

pytest.importorskip("triton")
decoders = pytest.importorskip("worker.runners.triton_decoder")
kernel = pytest.importorskip("worker.attention.kernel")
GroupedExperts = pytest.importorskip("worker.kernels.gpu.experts.product").GroupedExperts

__all__ = ["rounds_as_a_gpu"]
CPU = torch.device("cpu")
HALF_ROTATED = {
    "head_dim": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


@pytest.fixture(autouse=True)
def right_rounding(rounds_as_a_gpu: None) -> None:
    """For every test of this file."""


def tried(
    folder: Any,
    kv_dtype: torch.dtype | None = None,
    blocks: int = PROBE_SEQS,
    maker: AttentionMaker | None = None,
    dtype: str = "auto",
) -> tuple[Any, Any, torch.Tensor]:
    """(runner, model, the stock model's logits)."""
    model = load(str(folder), ("tiny",), replace(SMALL, dtype=dtype), lambda what, share: None).model
    expected = stock_logits(model)
    layers = survey_layers(model, 64)
    use_paged_attention(model)
    cache = KVCache(layers.shapes, blocks, 16, kv_dtype or model.dtype, CPU)
    maker = maker or kernel.KernelAttention.of_rows
    return decoders.TritonDecoderRunner(model, cache, layers.specs, maker), model, expected


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"rope_parameters": YARN}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("mistral", {}),
        ("phi3", {}),
        ("gemma2", {}),
        ("gemma3", {}),
        ("mixtral", {}),
        ("gpt_oss", {}),
        ("glm4_moe", {"attention_bias": True}),
        ("olmoe", {"hidden_size": 64}),
        ("qwen2_moe", {"use_sliding_window": False}),
    ],
)
def test_prompts_in_chunks_and_decodes_have_the_stock_logits(
    family: str, changes: dict[str, Any], model_folder: ModelFolder
) -> None:
    runner, model, expected = tried(model_folder(family, **changes))
    check_equal(runner, model, expected)


def test_heads_may_be_rotated_in_part(model_folder: ModelFolder) -> None:
    runner, model, expected = tried(model_folder("phi3", **HALF_ROTATED))
    assert (runner.num_rotated, runner.shape.key_dim) == (8, 16)
    check_equal(runner, model, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_models_have_the_stock_logits(dtype: str, model_folder: ModelFolder) -> None:
    runner, model, expected = tried(model_folder("qwen3"), dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    check_equal(runner, model, expected)


def test_an_fp8_cache_changes_the_logits_by_what_it_rounds(model_folder: ModelFolder) -> None:
    runner, model, expected = tried(model_folder(), torch.float8_e4m3fn)
    with pytest.raises(Unsupported, match="differ"):
        check_equal(runner, model, expected)  # it is really used
    check_equal(runner, model, replace(expected, most=0.1))


def test_torchs_attention_reads_what_the_kernel_wrote(model_folder: ModelFolder) -> None:
    runner, model, expected = tried(model_folder(), maker=PagedAttention)
    check_equal(runner, model, expected)


def test_fixed_frequencies_are_the_models_own_and_changing_ones_are_left_to_it(model_folder: ModelFolder) -> None:
    for parameters in ({"rope_type": "default", "rope_theta": 1e6}, YARN):
        runner, _, _ = tried(model_folder(rope_parameters=parameters))
        positions = torch.tensor([0, 1, 77, 4095, 130_000])
        expected = runner.rotary(torch.zeros(1), positions, None)
        for ours, theirs in zip(runner._rotation(torch.zeros(1), positions, None), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert runner.fixed[None] is not None
    runner, model, expected = tried(model_folder(rope_parameters=DYNAMIC))
    assert runner.fixed[None] is None
    check_equal(runner, model, expected)


ONCE = 9  # kernels of a layer, where the keys are not split
LAYER = {
    "aten.linear.default": 4,  # qkv, o, gate_up, down
    "rotate_and_write_kernel": 1,
    "attention_kernel": 1,
    "norm_kernel": 2,
    "gated_kernel": 1,
}
STEP = {  # of a step with one layer, besides those of the layer
    "aten.embedding.default": 1,
    "aten.mul.Tensor": 1,  # positions by frequencies
    "aten.cos.default": 1,
    "aten.sin.default": 1,
    "norm_kernel": 1,
    "aten.index.Tensor": 2,  # the last layer's tokens whose logits are wanted
    "aten.linear.default": 1,  # logits
}


@pytest.mark.parametrize(("context", "is_split"), [(20, False), (600, True)])
def test_a_decode_step_launches_nine_kernels_a_layer_and_one_more_where_keys_are_split(
    context: int, is_split: bool, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.kernels.packed.dense.can_pack", lambda dtype: False)  # products by torch, as on a GPU
    counts = []
    for num_layers in (1, 2):
        runner, _, _ = tried(model_folder(num_hidden_layers=num_layers), blocks=40)
        sequence = probe_sequence(prompt_of(context))
        sequence.block_ids = runner.kv_cache.pool.allocate(40)
        sequence.num_computed = context - 1
        rows = [ScheduledSequence(sequence, 1)]
        inputs, positions, selected = (torch.tensor(numbers) for numbers in ([5], [context - 1], [0]))
        paged = runner.attend_with(runner.kv_cache, rows, CPU)
        with torch.inference_mode(), counted_launches(monkeypatch) as names:
            runner._run(inputs, positions, paged, selected)
        counts.append(Counter(names))
    layer = Counter(LAYER) + Counter(combine_kernel=int(is_split))
    assert counts[1] - counts[0] == layer and not counts[0] - counts[1]
    assert layer.total() == ONCE + is_split <= 10
    assert counts[0] - layer == Counter(STEP)


SPARSE_MLP = {
    "aten.linear.default": 1,  # the router's logits
    "route_kernel": 1,
    "group_kernel": 1,
    "tile_product_kernel": 2,
    "expert_gate_kernel": 1,
    "weighted_sum_kernel": 1,
}


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_a_sparse_mlp_is_seven_launches_and_computes_what_its_module_does(
    family: str, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64}
    runner, model, _ = tried(model_folder(family, **sizes), dtype="bfloat16")
    module, mlp = model.model.layers[0].mlp, runner.layers[0].mlp
    layer = expert_layer(module.experts)
    assert layer is not None
    up, down = (replace(part, codes=part.codes.contiguous()) for part in (layer.up, layer.down))
    grouped = replace(mlp, experts=GroupedExperts(replace(layer, up=up, down=down)))
    monkeypatch.setattr("worker.runners.parts.routers.has_kernels", lambda device: True)
    normed = torch.randn(5, 64).bfloat16()
    with torch.inference_mode():
        output = module(normed[None])
        expected = (output if isinstance(output, torch.Tensor) else output[0])[0]
        with counted_launches(monkeypatch) as names:
            found = grouped(normed, runner._gated)
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected.abs().max()), rtol=0.02)
    assert Counter(names) == Counter(SPARSE_MLP) and len(names) == 7


def test_the_count_sees_what_torch_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.zeros(4, 4)
    with counted_launches(monkeypatch) as names:
        numbers[1:].t().view(4, 3) + torch.empty(1)
        numbers.mul_(2)
    assert names == ["aten.add.Tensor", "aten.mul_.Tensor"]


def test_numbers_that_the_kernels_do_not_take_are_refused(model_folder: ModelFolder) -> None:
    model = load(str(model_folder()), ("tiny",), SMALL, lambda what, share: None).model.double()
    with pytest.raises(Unsupported, match="float64"):
        decoders.TritonDecoderRunner(model, None, [])
