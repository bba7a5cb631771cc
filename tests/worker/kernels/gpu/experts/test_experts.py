"""Rows grouped by expert, and their products: those of each row with its expert's weights, in float64."""

import pytest
import torch
from torch.nn import functional as F
from triton.runtime.interpreter import InterpretedFunction

from tests.worker.gpu_stand_ins import launched, recorded
from tests.worker.interpreter import rounds_as_a_gpu
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.gpu.experts import groups
from worker.kernels.gpu.experts.groups import grouped, num_blocks
from worker.kernels.gpu.experts.product import GroupedExperts, block_rows, expert_product
from worker.kernels.gpu.products import ProductConfig
from worker.kernels.packed.encodings import WEIGHTS
from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.weights import Weights, stacked_weights

__all__ = ["rounds_as_a_gpu"]
CONFIG = ProductConfig(16, 16, 32, 1, 4, 3)


@pytest.fixture(autouse=True)
def right_rounding(rounds_as_a_gpu: None) -> None:
    """For every test of this file."""


def choice(num_tokens: int, top_k: int, num_experts: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(num_experts, generator=generator)[:top_k] for _ in range(num_tokens)])


def rows_of(found: groups.Groups) -> dict[int, list[int]]:
    """The rows that the blocks hold, by expert; empty places and blocks hold none."""
    rows: dict[int, list[int]] = {}
    for block, expert in enumerate(found.block_experts.tolist()):
        own = found.slots[block * found.block_m : (block + 1) * found.block_m].tolist()
        real = [row for row in own if row < found.num_rows]
        assert (expert >= 0) == bool(real) and all(row == found.num_rows for row in own if row not in real)
        if real:
            rows.setdefault(expert, []).extend(real)
    return rows


@pytest.mark.parametrize("few_rows", [2048, 0], ids=["kernel", "torch"])
@pytest.mark.parametrize(
    ("num_tokens", "top_k", "num_experts", "block_m"), [(1, 4, 32, 16), (50, 2, 5, 16), (130, 2, 4, 32), (0, 2, 4, 16)]
)
def test_every_row_is_in_a_block_of_its_expert_once(
    num_tokens: int, top_k: int, num_experts: int, block_m: int, few_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "FEW_ROWS", few_rows)
    monkeypatch.setattr(groups, "TILE", 256)  # several turns
    ids = choice(num_tokens, top_k, num_experts).flatten() if num_tokens else torch.zeros(0, dtype=torch.long)
    expected: dict[int, list[int]] = {}
    for row, expert in enumerate(ids.tolist()):
        expected.setdefault(expert, []).append(row)
    assert rows_of(grouped(ids, num_experts, block_m)) == expected


def test_the_number_of_blocks_suffices_for_every_choice() -> None:
    for num_rows in range(1, 40):
        for num_experts in (1, 3, 8):
            one_each = [num_rows // num_experts + (expert < num_rows % num_experts) for expert in range(num_experts)]
            uneven = [1] * (min(num_experts, num_rows) - 1)
            for sizes in (one_each, [num_rows], [*uneven, num_rows - len(uneven)]):
                assert sum(-(-size // 4) for size in sizes) <= num_blocks(num_rows, num_experts, 4)


def expert_weights(form: str, num_experts: int, num_out: int, num_in: int) -> Weights:
    generator = torch.Generator().manual_seed(num_out)
    shape = (num_experts, num_out, num_in)
    if form == "q4_k":
        codes = torch.randint(0, 16, shape, generator=generator, dtype=torch.uint8)
        scales, minimums = (torch.randn(*shape[:2], num_in // 32, generator=generator).half() for _ in range(2))
        return grouped_weights(codes, scales, 32, 4, torch.bfloat16, minimums=minimums)
    if form == "mxfp4":
        codes = torch.randint(0, 256, (*shape[:2], num_in // 2), generator=generator, dtype=torch.uint8)
        scales = torch.randint(120, 126, (*shape[:2], num_in // 32), generator=generator, dtype=torch.uint8)
        return Weights("mxfp4", torch.bfloat16, num_in, codes, scales, group=32)
    dense = torch.randn(shape, generator=generator).bfloat16()
    return stacked_weights([WEIGHTS[form](matrix) for matrix in dense])


@pytest.mark.parametrize("form", ["dense", "int8", "fp8_blocks", "int4", "q4_k", "mxfp4"])
def test_each_row_is_multiplied_by_its_expert_s_weights(form: str) -> None:
    weights = expert_weights(form, 5, 136, 192)
    bias = torch.randn(5, 136).bfloat16()
    inputs, chosen = torch.randn(9, 192).bfloat16(), choice(9, 2, 5)
    found = expert_product(inputs, weights, bias, grouped(chosen.flatten(), 5, 16), top_k=2, config=CONFIG)
    twin = weights.dense().double()
    expected = torch.stack(
        [inputs[row // 2].double() @ twin[expert].t() + bias[expert] for row, expert in enumerate(chosen.flatten())]
    )
    torch.testing.assert_close(found.double(), expected, atol=6e-3 * float(expected.abs().max()), rtol=2**-8)


def test_a_layer_s_experts_are_those_that_are_computed_one_after_the_other() -> None:
    up, down = expert_weights("mxfp4", 4, 128, 64), expert_weights("mxfp4", 4, 64, 64)

    def gate(outputs: torch.Tensor) -> torch.Tensor:
        return F.silu(outputs[:, ::2]) * outputs[:, 1::2]

    layer = ExpertLayer(up, down, torch.randn(4, 128).bfloat16(), torch.randn(4, 64).bfloat16(), gate)
    hidden, chosen, weights = torch.randn(6, 64).bfloat16(), choice(6, 2, 4), torch.rand(6, 2)
    expected, found = torch.empty_like(hidden), torch.empty_like(hidden)
    LoopedExperts(layer)(hidden, chosen, weights, expected)
    GroupedExperts(layer)(hidden, chosen, weights, found)
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected.abs().max()), rtol=0.02)


@pytest.mark.parametrize("few_rows", [2048, 0], ids=["kernel", "torch"])
def test_a_recorded_layer_computes_another_choice_of_experts(few_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the choice, and no launch depends on it."""
    monkeypatch.setattr(groups, "FEW_ROWS", few_rows)
    monkeypatch.setattr(InterpretedFunction, "run", launched(InterpretedFunction.run))
    up, down = expert_weights("int8", 4, 64, 64), expert_weights("int8", 4, 64, 64)
    layer = ExpertLayer(up, down, None, None, F.silu)
    hidden, chosen, weights = torch.randn(6, 64).bfloat16(), choice(6, 2, 4), torch.rand(6, 2)
    expected, outputs = torch.empty_like(hidden), torch.empty_like(hidden)
    with torch.inference_mode():
        replay = recorded(lambda: GroupedExperts(layer)(hidden, chosen, weights, outputs))
        hidden.copy_(torch.randn(6, 64))
        chosen.copy_(torch.tensor([[3, 0]] * 6))
        replay()
    LoopedExperts(layer)(hidden, chosen, weights, expected)
    torch.testing.assert_close(outputs, expected, atol=0.02 * float(expected.abs().max()), rtol=0.02)


def test_blocks_grow_with_the_rows_of_an_expert() -> None:
    assert [block_rows(rows, 32) for rows in (4, 512, 513, 1025, 20000)] == [16, 16, 32, 64, 64]
