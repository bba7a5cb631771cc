"""The page on DeepSeek-V3.2 shows what the arithmetic gives."""

import pytest
import torch
from transformers import DeepseekV32Config

from bench.deepseek import DEVICE_RATE, DOC, FIT_PARTS, expert_forms, expert_numbers, filled, parts, speed_rows
from worker.fit.bandwidth import Rates
from worker.fit.checkpoint import read
from worker.fit.plan import Machine
from worker.fit.sparse import EXPERTS, Asked, SparseModel, part_bytes
from worker.fit.survey import shape_of
from worker.models.loader import EngineConfig


def test_the_tables_of_the_page_are_those_of_the_arithmetic() -> None:
    page = DOC.read_text()
    assert filled(page) == page, "python -m bench.deepseek --write"
    assert filled(page.replace("| 1 | 3.1% |", "| 1 | 3.2% |")) == page


def test_the_parts_are_the_whole_model() -> None:
    """671.9 billion parameters are counted in its files; norms and biases are the rest."""
    config = DeepseekV32Config()
    total = sum(part.count for part in parts(config)) + expert_numbers(config)
    assert abs(total - 671.88e9) < 0.01e9


def test_omni_fit_counts_the_same() -> None:
    """But for the scales of fp8 blocks, norms, and biases: less than a thousandth."""
    config, checkpoint = DeepseekV32Config(), read("deepseek-v3.2")
    found = dict.fromkeys(FIT_PARTS.values(), 0.0)
    for part in parts(config):
        found[FIT_PARTS[part.name]] += part.num_bytes
    forms = {"": "fp8", "int8": "int8", "int4": "int4"}
    for quantize, form in forms.items():
        told = part_bytes(checkpoint, torch.bfloat16, quantize)
        assert abs(told[EXPERTS] / (expert_numbers(config) * expert_forms(config)[form]) - 1) < 1e-3
        for name, size in found.items():
            assert abs(told[name] / size - 1) < 1e-3, name


def test_omni_fit_tells_the_speed_that_the_page_does() -> None:
    checkpoint = read("deepseek-v3.2")
    card = Machine(torch.device("cuda"), "a GPU", 120 * 2**30, 0, is_here=False)
    model = SparseModel.of(checkpoint, shape_of(checkpoint.model), card, EngineConfig(), Asked(768 * 2**30))
    assert model is not None
    rows = list(speed_rows(DeepseekV32Config()))
    rates = [Rates(float(told.removesuffix(" GB/s")) * 1e9, DEVICE_RATE) for told, *_ in rows]
    for at, quantize in enumerate(("", "int8", "int4")):
        found = [one for one, _ in model.plan(quantize, rates).tokens_per_s]
        assert found == [pytest.approx(float(row[1 + 2 * at]), abs=0.06) for row in rows]
