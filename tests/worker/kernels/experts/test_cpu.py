"""A layer's experts in C: the sums of the dense twin in every form, shape and choice, on any processor and thread."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, product

import pytest
import torch

from tests.worker.kernels.packed.weight_forms import FORMS, Maker, processor
from worker.kernels.experts import cpu, nodes
from worker.kernels.experts.activation import Activation
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.form import ExpertsForm, plain_weights
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.forms import Parts, form_of, made_of
from worker.kernels.native import NoKernels
from worker.kernels.packed.encodings import (
    cpu_int4_weights,
    dense_weights,
    fp8_block_weights,
    fp8_weights,
    int4_weights,
)
from worker.kernels.packed.weights import stacked_weights
from worker.shelf.memory import resident_bytes

__all__ = ["processor"]
pytestmark = pytest.mark.usefixtures("kernels", "one_thread")

NUM_EXPERTS, TOP_K = 5, 2
LIMITED = Activation(alternates=True, limit=7.0, alpha=1.702, shift=1.0)  # gpt-oss
ACTIVATIONS = (Activation(), LIMITED, Activation("gelu_tanh"), Activation("gelu", has_gate=False))
SHAPES = ((128, 64), (96, 136), (160, 48))  # width, inner width
BITS_OF_BFLOAT16 = 8


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of OpenMP wait for each other, and on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(num_out: int, num_in: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(num_out, num_in) / num_in**0.5).to(dtype)


EXPERT_FORMS: dict[str, Maker] = FORMS | {
    "dense": lambda num_out, num_in, dtype: dense_weights(random(num_out, num_in, dtype)),
    "int4": lambda num_out, num_in, dtype: cpu_int4_weights(random(num_out, num_in, dtype)),
    "fp8": lambda num_out, num_in, dtype: fp8_weights(random(num_out, num_in, dtype)),
    "fp8_blocks": lambda num_out, num_in, dtype: fp8_block_weights(random(num_out, num_in, dtype)),
}


def layer_of(
    form: str, dtype: torch.dtype, width: int, inner: int, activation: Activation, *, has_bias: bool = False
) -> ExpertLayer:
    make, num_up = EXPERT_FORMS[form], inner * (1 + activation.has_gate)
    up, down = (
        stacked_weights([make(num_out, num_in, dtype) for _ in range(NUM_EXPERTS)])
        for num_out, num_in in ((num_up, width), (width, inner))
    )
    biases = [torch.randn(NUM_EXPERTS, size).to(dtype) if has_bias else None for size in (num_up, width)]
    return ExpertLayer(up, down, *biases, activation)


def inputs_of(num_rows: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, choices and weights."""
    chosen = torch.stack([torch.randperm(NUM_EXPERTS)[:TOP_K] for _ in range(num_rows)])
    return torch.randn(num_rows, width).to(dtype), chosen, torch.rand(num_rows, TOP_K)


def sums(experts: CpuExperts, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    out = torch.full_like(hidden, 7)
    experts(hidden, chosen, weights, out)
    return out


def expected(layer: ExpertLayer, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """In float64, from the numbers that the weights stand for before they are rounded to the model's dtype."""
    up, down = (part.to(None, torch.float32).dense().double() for part in (layer.up, layer.down))
    out = torch.zeros(hidden.shape, dtype=torch.float64)
    for row, choice in ((row, choice) for row in range(len(hidden)) for choice in range(chosen.shape[1])):
        if (expert := int(chosen[row, choice])) in range(NUM_EXPERTS):
            inner = up[expert] @ hidden[row].double()
            inner = layer.activate((inner if layer.up_bias is None else inner + layer.up_bias[expert])[None])[0]
            own = down[expert] @ inner
            out[row] += weights[row, choice] * (own if layer.down_bias is None else own + layer.down_bias[expert])
    return out


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sums_are_those_of_the_dense_twin_in_every_form(processor: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    cases = cycle(product(SHAPES, ACTIVATIONS, (1, 2, 4, 19)))
    for form in EXPERT_FORMS:
        for has_bias in (False, True):
            (width, inner), activation, num_rows = next(cases)
            layer = layer_of(form, dtype, width, inner, activation, has_bias=has_bias)
            experts, inputs = CpuExperts.of(layer), inputs_of(num_rows, width, dtype)
            found = error(sums(experts, *inputs), expected(layer, *inputs))
            assert found < (2e-6 if dtype == torch.float32 else 4e-3), (form, width, inner, activation, num_rows)


@pytest.mark.parametrize("num_rows", [3, 5000])
def test_the_sums_of_wide_experts_and_many_rows_are_those_of_the_dense_twin(processor: str, num_rows: int) -> None:
    """Sizes from which on `down` is cut into chunks, the last one shorter, and rows come in several rounds."""
    torch.manual_seed(0)
    layer = layer_of("int8", torch.float32, 1056, 64, Activation(), has_bias=False)
    experts, (hidden, chosen, weights) = CpuExperts.of(layer), inputs_of(num_rows, 1056, torch.float32)
    experts.c_layer.num_threads = 1
    looped = torch.empty_like(hidden)
    LoopedExperts(layer)(hidden, chosen, weights, looped)
    assert error(sums(experts, hidden, chosen, weights), looped) < 1e-5


@pytest.mark.parametrize("form", ["int4", "Q4_0", "Q6_K", "mxfp4", "int8"])
def test_inputs_of_15_bits_cost_less_than_the_rounding_of_a_result(form: str) -> None:
    torch.manual_seed(0)
    layer = layer_of(form, torch.float32, 256, 128, Activation())
    experts, inputs = CpuExperts.of(layer), inputs_of(7, 256, torch.float32)
    if experts.kernels.can_round() == 0:
        pytest.skip("the processor has no VNNI")
    exact, right = sums(experts, *inputs), expected(layer, *inputs)
    experts.round_inputs()
    assert error(exact, right) < 1e-6 < error(sums(experts, *inputs), right) < 2.0**-BITS_OF_BFLOAT16 / 8


def test_a_row_s_sums_do_not_depend_on_the_other_rows(processor: str) -> None:
    torch.manual_seed(0)
    for form in ("int4", "fp8_blocks", "dense"):
        experts = CpuExperts.of(layer_of(form, torch.bfloat16, 128, 64, Activation()))
        hidden, chosen, weights = inputs_of(40, 128, torch.bfloat16)
        together = sums(experts, hidden, chosen, weights)
        for row in (0, 13, 39):
            alone = sums(experts, hidden[row : row + 1], chosen[row : row + 1], weights[row : row + 1])
            assert torch.equal(alone[0], together[row]), (form, row)


def test_choices_of_no_expert_add_nothing() -> None:
    torch.manual_seed(0)
    layer = layer_of("int4", torch.float32, 128, 64, Activation(), has_bias=True)
    experts, (hidden, chosen, weights) = CpuExperts.of(layer), inputs_of(3, 128, torch.float32)
    chosen[0, 1], chosen[1], weights[1] = -1, NUM_EXPERTS, torch.nan
    found = sums(experts, hidden, chosen, weights)
    assert error(found[[0, 2]], expected(layer, hidden, chosen, weights)[[0, 2]]) < 2e-6
    assert found[1].count_nonzero() == 0


def test_the_weights_come_back_as_they_were() -> None:
    torch.manual_seed(0)
    for form in EXPERT_FORMS:
        for activation in (Activation(), LIMITED):
            layer = layer_of(form, torch.bfloat16, 160, 48, activation)
            experts = CpuExperts.of(layer)
            some = {name: part[1:3] for name, part in experts.tensors.items()}
            for found, weights in zip(plain_weights(experts.form, some), (layer.up, layer.down), strict=True):
                assert torch.equal(found.dense(), weights.map_parts(lambda part: part[1:3]).dense()), form
            assert torch.equal(experts.dense(4)[1], layer.down.matrix(4).dense()), form


def test_kept_experts_compute_from_the_tensors_that_were_kept() -> None:
    torch.manual_seed(0)
    experts = CpuExperts.of(layer_of("mxfp4", torch.bfloat16, 128, 64, LIMITED, has_bias=True))
    inputs, parts = inputs_of(3, 128, torch.bfloat16), Parts()
    again = made_of(form_of(experts, "experts", parts), parts.tensors)
    assert torch.equal(sums(again, *inputs), sums(experts, *inputs))
    assert ExpertsForm.of_json(experts.form.as_json()) == experts.form
    assert again.tensors["up.codes"].data_ptr() == experts.tensors["up.codes"].data_ptr()


def test_any_thread_may_call_and_several_at_a_time() -> None:
    torch.manual_seed(0)
    experts = CpuExperts.of(layer_of("int4", torch.bfloat16, 128, 64, Activation()))
    inputs = [inputs_of(num_rows, 128, torch.bfloat16) for num_rows in (1, 9, 30)]
    right = [sums(experts, *own) for own in inputs]
    found: list[bool] = []

    def call(at: int) -> None:
        found.extend(torch.equal(sums(experts, *inputs[at]), right[at]) for _ in range(5))

    threads = [threading.Thread(target=call, args=(at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 15


def test_a_thread_that_ends_leaves_no_memory_behind() -> None:
    experts = CpuExperts.of(layer_of("int8", torch.bfloat16, 1024, 64, Activation()))
    inputs = inputs_of(512, 1024, torch.bfloat16)  # some 3 MB of rows

    def grown(num_threads: int) -> int:
        before = resident_bytes()
        for _ in range(num_threads):
            thread = threading.Thread(target=sums, args=(experts, *inputs))
            thread.start()
            thread.join()
        return resident_bytes() - before

    grown(3)
    assert grown(20) < 10 * 2**20


def test_several_threads_compute_the_same_on_machines_of_several_nodes() -> None:
    torch.manual_seed(0)
    experts = CpuExperts.of(layer_of("fp8_blocks", torch.bfloat16, 256, 160, Activation()))
    inputs = inputs_of(11, 256, torch.bfloat16)
    right = sums(experts, *inputs)
    for num_nodes, num_threads in ((1, 2), (2, 2), (3, 3)):
        experts.c_layer.num_nodes, experts.c_layer.num_threads = num_nodes, num_threads
        assert torch.equal(sums(experts, *inputs), right), (num_nodes, num_threads)


def test_weights_may_be_spread_over_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's nodes may be fewer: then a page lies where there is memory."""
    torch.manual_seed(0)
    layer, inputs = layer_of("int4", torch.bfloat16, 128, 64, Activation()), inputs_of(5, 128, torch.bfloat16)
    right = sums(CpuExperts.of(layer), *inputs)
    monkeypatch.setattr(cpu, "count_nodes", lambda: 3)
    asked, large = list[tuple[int, Sequence[int]]](), list[torch.Tensor]()
    monkeypatch.setattr(nodes, "set_policy", lambda mode, mask: asked.append((mode, mask)))
    monkeypatch.setattr(cpu, "use_large_pages", large.append)
    spread = CpuExperts.of(layer)
    by_node = [each for node in range(3) for each in ((nodes.PREFERRED, [node]), (nodes.DEFAULT, ()))]
    assert asked == by_node * layer.num_experts * len(spread.tensors)
    assert not large, "a large page lies on one node as a whole"
    monkeypatch.setattr(cpu, "LARGE_PAGE", 64)
    CpuExperts.of(layer)
    assert large
    assert spread.c_layer.num_nodes == 3
    assert torch.equal(sums(spread, *inputs), right)


def test_dense_matrices_may_stand_turned() -> None:
    torch.manual_seed(0)
    layer, inputs = layer_of("dense", torch.bfloat16, 128, 64, Activation()), inputs_of(5, 128, torch.bfloat16)
    turned = replace(layer, up=replace(layer.up, codes=layer.up.codes.mT.contiguous().mT))
    assert not turned.up.codes.is_contiguous()
    assert torch.equal(sums(CpuExperts.of(turned), *inputs), sums(CpuExperts.of(layer), *inputs))


def test_experts_that_no_kernel_computes_are_refused_with_the_reason() -> None:
    layer = layer_of("dense", torch.bfloat16, 64, 32, Activation())
    other = ExpertLayer(layer.up, layer.down, None, None, lambda outputs: outputs.chunk(2, dim=-1)[0].cos())
    with pytest.raises(NoKernels, match="activation"):
        CpuExperts.of(other)
    narrow = stacked_weights([int4_weights(random(64, 64, torch.bfloat16), 16)])
    with pytest.raises(NoKernels, match="int4 in groups of 16"):
        CpuExperts.of(ExpertLayer(narrow, narrow, None, None, Activation(has_gate=False)))
