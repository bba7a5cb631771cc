"""A CPU computes each product in the way that was fastest at start, and rounds inputs only from then on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.worker.conftest import Bench, ModelFolder, prompt_of
from tests.worker.kernels.experts.test_cpu import layer_of
from worker.kernels.experts.activation import Activation
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.native import processor_features
from worker.kernels.packed import choice
from worker.kernels.packed.choice import LEAST_TRIES, MOST_TRIES, choose_ways
from worker.kernels.packed.cpu import ROWS, WAYS, CpuLinear
from worker.kernels.packed.encodings import int8_weights
from worker.kernels.packed.linear import SideBySide
from worker.kernels.quantized import Int8
from worker.models.loader import EngineConfig
from worker.runners.decoder import DecoderRunner

pytestmark = [
    pytest.mark.usefixtures("kernels"),
    pytest.mark.skipif("avx512_vnni" not in processor_features().split(), reason="the processor has no VNNI"),
]


def linear(num_out: int = 48, dtype: torch.dtype = torch.bfloat16) -> CpuLinear:
    torch.manual_seed(0)
    return CpuLinear(int8_weights(torch.randn(num_out, 64).to(dtype)), None)


def table_time(linear: CpuLinear, num_rows: int, way: str) -> float:
    """Few rows are fastest rounded, one about as fast "fine"; many by conversion."""
    fine = 1.05 if num_rows == 1 else 1.5
    return {"exact": 3.0, "fine": fine, "rounded": 1.0, "by_conversion": 2.0 if num_rows <= 16 else 0.5}[way]


@pytest.fixture
def is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are not small."""
    monkeypatch.setattr(choice, "SMALL_BYTES", 0)


@pytest.mark.usefixtures("is_large")
def test_inputs_are_as_they_are_until_ways_are_chosen() -> None:
    product, inputs = linear(), torch.randn(3, 64).bfloat16()
    exact = product(inputs)
    assert torch.equal(exact, product.laid_out.exact(inputs))
    choose_ways([product], None, table_time)
    assert torch.equal(product(inputs), product.laid_out.rounded(inputs))
    assert not torch.equal(product(inputs), exact)


@pytest.mark.usefixtures("is_large")
def test_the_fastest_way_is_taken_for_each_number_of_rows_and_fine_where_it_costs_little() -> None:
    product = linear()
    choose_ways([product], None, table_time)
    assert product.ways == {1: "fine", 4: "rounded", 16: "rounded", 64: "by_conversion", 256: "by_conversion"}
    many = torch.randn(300, 64).bfloat16()
    assert torch.equal(product(many), product.laid_out.by_conversion(many))


def test_a_small_model_does_not_round_its_inputs_to_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in ("measured", "kept"):
        product = linear()
        choose_ways([product], tmp_path / "products.json", table_time)
        assert product.ways == {1: "fine", 4: "fine", 16: "fine", 64: "by_conversion", 256: "by_conversion"}
    monkeypatch.setattr(choice, "BUDGET_S", -1.0)
    choose_ways([product], None, table_time)
    assert set(product.ways.values()) == {"fine"}
    monkeypatch.setattr(choice, "SMALL_BYTES", 0)
    choose_ways([product], tmp_path / "products.json", table_time)
    assert set(product.ways.values()) == {"rounded"}  # what was kept is for small models


@pytest.mark.usefixtures("is_large")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_exact_model_does_not_round_whatever_other_starts_have_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    product = linear(dtype=dtype)
    choose_ways([product], tmp_path / "products.json", table_time)
    assert "rounded" in product.ways.values()
    for table in (tmp_path / "products.json", None):
        product = linear(dtype=dtype)
        choose_ways([product], table, table_time, is_exact=True)
        assert set(product.ways.values()) == {"by_conversion"}
    choose_ways([exact := linear(dtype=dtype)], None, lambda *_: 1.0, is_exact=True)
    assert set(exact.ways.values()) == {"exact"}


@pytest.mark.usefixtures("is_large")
def test_what_was_measured_is_kept_for_the_next_start(tmp_path: Path) -> None:
    asked: Counter[tuple[CpuLinear, int, str]] = Counter()

    def timer(linear: CpuLinear, num_rows: int, way: str) -> float:
        asked[linear, num_rows, way] += 1
        return table_time(linear, num_rows, way)

    first, second, other = linear(), linear(), linear(64)
    choose_ways([first], tmp_path / "products.json", timer)
    assert len(asked) == len(WAYS) * len(ROWS)
    choose_ways([second, SideBySide([other])], tmp_path / "products.json", timer)
    assert {linear for linear, *_ in asked} == {first, other}
    assert second.ways == first.ways == other.ways


@pytest.mark.usefixtures("is_large")
def test_a_way_counts_by_its_fastest_try_and_a_hopeless_one_is_tried_twice() -> None:
    tries: Counter[str] = Counter()

    def timer(linear: CpuLinear, num_rows: int, way: str) -> float:
        if num_rows != 1:
            return 1.0
        tries[way] += 1
        is_disturbed = way == "rounded" and tries[way] == 1
        return {"exact": 2.0, "fine": 3.9, "rounded": 1.0, "by_conversion": 5.0}[way] * (30 if is_disturbed else 1)

    product = linear()
    choose_ways([product], None, timer)
    assert product.ways[1] == "rounded"
    assert tries == {"exact": MOST_TRIES + 1, "fine": MOST_TRIES, "rounded": MOST_TRIES, "by_conversion": LEAST_TRIES}


def test_experts_count_for_the_size_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = CpuExperts.of(layer_of("int4", torch.bfloat16, 128, 64, Activation()))
    product = linear()
    for has_experts, way in ((False, "fine"), (True, "rounded")):
        monkeypatch.setattr(choice, "SMALL_BYTES", product.laid_out.num_bytes + 1)
        choose_ways([product, *([experts] if has_experts else [])], None, table_time)
        assert product.ways[4] == way


def test_a_quantized_model_rounds_its_inputs_and_answers_nearly_as_before(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "seconds_of", table_time)
    config = EngineConfig(max_num_seqs=8, max_step_tokens=64, dtype="bfloat16", threads=2)
    bench = Bench(model_folder(hidden_size=128, intermediate_size=192), replace(config, quantization=Int8()))
    runner = bench.engine.runner
    assert isinstance(runner, DecoderRunner)
    for product in runner.linears:
        assert isinstance(product, CpuLinear) and product.ways[1] == "fine"
    bench.add("r", prompt_of(40), ignore_eos=True)
    bench.finish()
    assert len(bench.token_ids("r")) == 20
