"""The choice of how products are computed: by the times that are measured, kept in a file, and checked before."""

import json
import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch

from common.settings import read_settings
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.configuration import engine_config
from worker.kernels import tuning
from worker.kernels.gpu.products import ProductConfig, configs_for
from worker.kernels.packed.encodings import WEIGHTS, fp8_weights
from worker.kernels.packed.linear import packed_linear
from worker.kernels.product_table import ProductTable
from worker.kernels.quantized import Fp8, Int4, Int8, Quantization
from worker.kernels.quantized_linears import FewOrManyRows, Fp8Linear
from worker.kernels.tuning import (
    FEW_ROWS,
    MANY_ROWS,
    ProductLinear,
    TimedProduct,
    environment,
    measured_products,
    tune,
)
from worker.runners.decoder import DecoderRunner
from worker.runners.probe import probe_logits

CPU = torch.device("cpu")
TORCHS = 1e-5  # seconds


def linear(
    kind: str = "dense", num_out: int = 16, num_in: int = 64, dtype: torch.dtype = torch.bfloat16
) -> ProductLinear:
    return ProductLinear(WEIGHTS[kind](torch.randn(num_out, num_in).to(dtype)), None)


class Clock:
    """Says what a product takes, instead of a GPU, and counts what it was asked."""

    def __init__(self, seconds: Callable[[int, ProductConfig | None], float]) -> None:
        self.seconds = seconds
        self.asked: list[tuple[int, ProductConfig | None]] = []

    def __call__(self, group: Seq[ProductLinear], num_rows: int, config: ProductConfig | None) -> float:
        self.asked.append((num_rows, config))
        return self.seconds(num_rows, config)


def kernels_take(seconds: float) -> Clock:
    return Clock(lambda num_rows, config: TORCHS if config is None else seconds)


@pytest.fixture(autouse=True)
def few_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them for each product: the interpreter takes long for a tile."""
    config = ProductConfig(16, 16, 64, 1, 1, 2)

    def two(weights: object, num_rows: int, num_multiprocessors: int) -> list[ProductConfig]:
        return [config, replace(config, block_n=32)]

    monkeypatch.setattr(tuning, "configs_for", lambda *words: iter(two(*words)))
    monkeypatch.setattr(tuning, "MANY_ROWS", (32,))
    monkeypatch.setattr(tuning, "DENSE_ROWS", ())


def test_a_kernel_is_taken_only_where_it_is_faster_by_more_than_noise() -> None:
    slow, alike, fast = (linear() for _ in range(3))
    tune([slow], CPU, None, kernels_take(1.2 * TORCHS))
    tune([alike], CPU, None, kernels_take(0.98 * TORCHS))
    tune([fast], CPU, None, kernels_take(0.5 * TORCHS))
    assert set(slow.configs.values()) == set(alike.configs.values()) == {None}
    assert all(fast.configs.values()) and tuple(fast.configs) == FEW_ROWS


def test_each_number_of_rows_has_its_own_choice_and_others_use_the_next_larger_one() -> None:
    chosen = linear()
    tune([chosen], CPU, None, Clock(lambda num_rows, config: 1.0 if config is None else 0.5 if num_rows == 4 else 2.0))
    asked: list[ProductConfig | None] = []
    chosen.compute = lambda inputs, config: asked.append(config) or inputs  # type: ignore[method-assign,func-returns-value]
    for num_rows in (2, 3, 4, 5, 16, 17, 400):
        chosen(torch.zeros(num_rows, 64))
    assert [config is not None for config in asked] == [False, True, True, False, False, False, False]


def test_layers_of_equal_shape_are_measured_once_and_choose_alike() -> None:
    layers, clock = [linear(), linear(), linear(num_out=32)], kernels_take(0.5 * TORCHS)
    chosen = tune(layers, CPU, None, clock)
    assert len(clock.asked) == 2 * len(FEW_ROWS) * 3  # two shapes; torch and two kernels
    assert layers[0].configs == layers[1].configs
    assert sorted(chosen)[0] == "dense bfloat16 16x64 rows 1" and len(chosen) == 2 * len(FEW_ROWS)


def test_the_next_start_measures_nothing(tmp_path: Path) -> None:
    first, second, clock = linear(), linear(), kernels_take(0.5 * TORCHS)
    tune([first], CPU, tmp_path / "new" / "products.json", kernels_take(0.5 * TORCHS))
    tune([second], CPU, tmp_path / "new" / "products.json", clock)
    assert not clock.asked and second.configs == first.configs
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["products.json"]


def test_another_gpu_measures_for_itself_and_keeps_what_the_first_one_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, clock = tmp_path / "products.json", kernels_take(2 * TORCHS)
    tune([linear()], CPU, file, kernels_take(0.5 * TORCHS))
    monkeypatch.setattr(tuning, "environment", lambda device: "another GPU")
    tune([linear()], CPU, file, clock)
    assert clock.asked
    found = json.loads(file.read_text())["environments"]
    assert set(found) == {environment(CPU), "another GPU"}
    assert found["another GPU"]["dense bfloat16 16x64 rows 1"] == []
    assert len(found[environment(CPU)]["dense bfloat16 16x64 rows 1"]) == len(astuple(ProductConfig(0, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 2, "environments": {}}', '{"format": 1}', '{"format": 1, "environments": []}',
     '{"format": 1, "environments": {"cpu": {"a": 3}}}', '{"format": 1, "environments": {"cpu": {"a": [1.5]}}}'],
)  # fmt: skip
def test_a_broken_or_foreign_file_is_replaced(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, chosen = tmp_path / "products.json", linear()
    file.write_text(text)
    tune([chosen], CPU, file, kernels_take(0.5 * TORCHS))
    assert all(chosen.configs.values()) and "are not used" in caplog.text
    assert ProductTable(file, environment(CPU)).find("dense bfloat16 16x64 rows 1") == (16, 16, 64, 1, 1, 2)


def test_a_choice_with_other_numbers_than_a_configuration_has_is_measured_again(tmp_path: Path) -> None:
    file, clock = tmp_path / "products.json", kernels_take(0.5 * TORCHS)
    kept = ProductTable(file, environment(CPU))
    kept.put("dense bfloat16 16x64 rows 1", (1, 2))
    kept.save()
    tune([linear()], CPU, file, clock)
    assert (1, None) in clock.asked


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    tune([linear()], CPU, tmp_path / "file" / "products.json", kernels_take(TORCHS))
    assert "are not kept in" in caplog.text


def test_a_kernel_that_computes_something_else_or_fails_is_never_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen, product = linear(), tuning.product

    def wrong(
        inputs: torch.Tensor, weights: object, bias: object, config: ProductConfig, *, starts_early: bool
    ) -> torch.Tensor:
        if config.block_n == 16:
            raise RuntimeError("out of resources")
        return product(inputs, weights, bias, config).mul_(1.1)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "product", wrong)
    caplog.set_level(logging.INFO)
    tune([chosen], CPU, None, kernels_take(0.1 * TORCHS))
    assert set(chosen.configs.values()) == {None}
    assert "out of resources" in caplog.text and "it deviates from torch's product by 0." in caplog.text


def test_what_could_not_be_measured_is_not_kept(tmp_path: Path) -> None:
    def no_memory(num_rows: int, config: ProductConfig | None) -> float:
        raise RuntimeError("out of memory")

    quantized = linear("int8")
    tune([quantized], CPU, tmp_path / "products.json", Clock(no_memory))
    assert not (tmp_path / "products.json").exists() and all(quantized.configs.values())


def test_the_worker_keeps_them_in_its_data_folder(tmp_path: Path) -> None:
    settings = read_settings({"OMNI_DATA_DIR": str(tmp_path)})
    assert engine_config(settings).products_table == tmp_path.resolve() / "products.json"


def test_what_the_budget_leaves_over_is_measured_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, quantized, clock = tmp_path / "products.json", linear("int8"), kernels_take(0.5 * TORCHS)
    monkeypatch.setattr(tuning, "BUDGET_S", 0.0)
    tune([quantized], CPU, file, clock)
    assert not clock.asked and not file.exists() and all(quantized.configs.values())  # a kernel, if not the fastest
    monkeypatch.setattr(tuning, "BUDGET_S", 60.0)
    tune([quantized], CPU, file, clock)
    assert clock.asked and file.exists()


def test_quantized_weights_are_measured_for_many_rows_too_and_wider_steps_make_them_dense() -> None:
    quantized = linear("int8")
    assert tuple(quantized.configs) == FEW_ROWS + (32,)
    tune([quantized], CPU, None, Clock(lambda num_rows, config: 1.0 if config is None else 0.5))
    asked: list[ProductConfig | None] = []
    quantized.compute = lambda inputs, config: asked.append(config) or inputs  # type: ignore[method-assign,func-returns-value]
    for num_rows in (20, 32, 33):
        quantized(torch.zeros(num_rows, 64))
    assert [config is not None for config in asked] == [True, True, False]


def test_a_benchmark_gets_a_row_for_each_configuration_with_the_bytes_it_must_read() -> None:
    rows = list(measured_products([(16, 64)], ["dense", "int8"], [1, 4], CPU, kernels_take(0.5 * TORCHS)))
    assert [(row.kind, row.num_rows, row.config is None) for row in rows[:4]] == [
        ("dense", 1, True), ("dense", 1, False), ("dense", 1, False), ("dense", 4, True),
    ]  # fmt: skip
    assert rows[0].num_bytes == 2 * (16 * 64 + 64 + 16) and rows[6].num_bytes == 16 * 64 + 4 * 16 + 2 * (64 + 16)


def test_the_configurations_for_a_gpu_differ_and_the_first_one_fits_small_ones() -> None:
    for kind in WEIGHTS:
        weights = linear(kind, 64, 256).weights
        for num_rows in FEW_ROWS + MANY_ROWS:
            configs = list(configs_for(weights, num_rows, 132))
            assert len(set(configs)) == len(configs) and bool(configs) == (kind != "dense" or num_rows <= 32)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU counts as a GPU with Triton, which the interpreter is."""
    monkeypatch.setattr("worker.kernels.linear.has_kernels", lambda device: True)
    monkeypatch.setattr("worker.kernels.quantized.has_kernels", lambda device: True)
    monkeypatch.setattr("worker.kernels.packed.linear.has_kernels", lambda device: True)


@pytest.mark.parametrize("quantization", [Int8(), Int4(), Fp8()])
def test_a_quantized_model_has_the_logits_of_the_numbers_that_its_weights_stand_for(
    quantization: Quantization,
    on_gpu: None,
    model_folder: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    torchs = TimedProduct("dense", 1, 1, 1, None, TORCHS, 1)
    monkeypatch.setattr(tuning, "measurements", lambda *_: iter([torchs]))
    config = replace(SMALL, quantization=quantization, dtype="bfloat16", products_table=tmp_path / "products.json")
    bench = Bench(model_folder(), config)
    (kept,) = json.loads((tmp_path / "products.json").read_text())["environments"].values()
    assert set(map(tuple, kept.values())) == {()} and any(name.startswith(quantization.name) for name in kept)
    runner = bench.engine.runner
    assert isinstance(runner, DecoderRunner)
    products = [getattr(one, "few_rows", one) for one in runner.linears]
    assert all(isinstance(one, ProductLinear) for one in products)
    expected = probe_logits(runner, bench.loaded.model)[0]
    for one in products:
        block_k = one.weights.group or 64
        one.configs = {num_rows: ProductConfig(16, 32, block_k, 1, 1, 2) for num_rows in (1, 16, 256)}
    found = probe_logits(runner, bench.loaded.model)[0]
    assert float((found - expected).abs().max() / expected.std()) < 0.1
    assert not torch.equal(found, expected)  # the kernels add in another order
    bench.add("r", prompt_of(9), ignore_eos=True, max_tokens=3)
    bench.finish()
    assert len(bench.token_ids("r")) == 3


def test_the_head_of_an_int4_model_is_int8_and_fp8_multiplies_fp8_numbers_from_17_rows_on(on_gpu: None) -> None:
    weight = torch.randn(64, 128).bfloat16()
    assert [one.linear(weight, None).weights.kind for one in (Int4(), Int4().for_head())] == ["int4", "int8"]  # type: ignore[attr-defined]
    both = Fp8().linear(weight, None)
    assert isinstance(both, FewOrManyRows) and isinstance(both.many_rows, Fp8Linear)
    inputs = torch.randn(17, 128).bfloat16()
    assert torch.equal(both(inputs), Fp8Linear(fp8_weights(weight), None)(inputs))
    assert tuple(both.few_rows.configs) == FEW_ROWS  # type: ignore[attr-defined]
    made_for_it = packed_linear(replace(fp8_weights(weight), inputs="fp8"), None)
    assert torch.equal(made_for_it(inputs), both(inputs)) and isinstance(made_for_it, FewOrManyRows)
    assert type(packed_linear(fp8_weights(weight), None)) is ProductLinear  # for inputs that are not rounded
    assert both.many_rows.weight.data_ptr() == both.few_rows.weights.codes.data_ptr()  # type: ignore[attr-defined]
