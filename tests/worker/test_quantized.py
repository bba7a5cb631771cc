"""Quantized weights stand for almost the same numbers, whichever way the product is computed."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.decoder import DecoderRunner
from worker.loader import EngineConfig, load
from worker.quantized import Int4Linear, Int8Linear


@pytest.mark.parametrize(("kind", "tolerance"), [(Int8Linear, 0.02), (Int4Linear, 0.15)])
@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_the_product_is_near_the_exact_one(
    kind: type[Int8Linear | Int4Linear], tolerance: float, num_rows: int
) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64).bfloat16(), torch.randn(96).bfloat16()
    inputs = torch.randn(num_rows, 64).bfloat16()
    exact = F.linear(inputs.float(), weight.float(), bias.float())
    deviation = (kind(weight, bias)(inputs).float() - exact).square().mean().sqrt() / exact.std()
    assert deviation < tolerance


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_few_rows_and_many_rows_agree(kind: type[Int8Linear | Int4Linear]) -> None:
    torch.manual_seed(0)
    linear = kind(torch.randn(96, 64).bfloat16(), None)
    inputs = torch.randn(64, 64).bfloat16()
    torch.testing.assert_close(linear(inputs)[:4], linear(inputs[:4]), atol=0.25, rtol=0.02)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_quantized_model_answers(quantize: str, model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), replace(SMALL, quantize=quantize))
    assert isinstance(bench.engine.runner, DecoderRunner)
    bench.add("r", prompt_of(40), ignore_eos=True)
    bench.finish()
    assert len(bench.token_ids("r")) == 20


def test_an_unknown_quantization_is_refused(model_folder: ModelFolder) -> None:
    with pytest.raises(ValueError, match="int3"):
        load(str(model_folder()), ("tiny",), EngineConfig(quantize="int3"), lambda stage, fraction: None)
