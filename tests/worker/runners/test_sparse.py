"""Decoders of our own compute sparse models as transformers does: in batches, with drafts, on shared prefixes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.wire import Finished
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.kernels.experts.activation import Activation
from worker.kernels.linear import PlainLinear
from worker.kernels.native import NoKernels, load_kernels
from worker.runners.decoder import DecoderRunner
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.parts.mlp import DenseMlp, SparseMlp, mlp_of
from worker.runners.parts.native_router import NativeRouter, native_router
from worker.runners.parts.routers import Router, router_of
from worker.runners.probe import Unsupported
from worker.runners.recorded import native as native_runner

WIDE: dict[str, Any] = {"hidden_size": 64, "head_dim": 32}  # widths that the C kernels take
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": WIDE,
    "qwen2_moe": WIDE | {"use_sliding_window": False, "mlp_only_layers": [0]},
    "qwen3_moe": WIDE,
    "glm4_moe": WIDE | {"head_dim": 64, "attention_bias": True},  # half of each head is rotated
    "gpt_oss": WIDE,
    "olmoe": {"hidden_size": 128},
}
LENGTHS = (1, 17, 40)


def refuse(dtype: torch.dtype) -> None:
    raise NoKernels("there is no C compiler")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("by_torch", [False, True], ids=["kernels", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_drafts_and_shared_prefixes_give_the_tokens_of_generate(
    family: str, by_torch: bool, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_torch:
        monkeypatch.setattr(native_runner, "load_kernels", refuse)
    bench = Bench(model_folder(family, **FAMILIES[family]), replace(SMALL, speculate=3))
    assert type(bench.engine.runner) is (DecoderRunner if by_torch else NativeDecoderRunner)
    assert any(isinstance(layer.mlp, SparseMlp) for layer in bench.engine.runner.layers)
    prompts = {f"r{length}": prompt_of(length) for length in LENGTHS}
    prompts["repeating"] = prompt_of(6) * 3
    for request_id, prompt in prompts.items():  # staggered: some decode while others prefill
        bench.add(request_id, prompt, max_tokens=12)
        bench.step(2)
    bench.finish()
    prompts["again"] = prompt_of(LENGTHS[-1]) + bench.token_ids(f"r{LENGTHS[-1]}")
    bench.add("again", prompts["again"], max_tokens=12)
    bench.finish()
    end = bench.end("again")
    assert isinstance(end, Finished) and end.cached_tokens >= 32
    model = AutoModelForCausalLM.from_pretrained(bench.folder, dtype=torch.float32)
    for request_id, prompt in prompts.items():
        output = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        assert bench.token_ids(request_id) == output[0, len(prompt) :].tolist(), request_id


def block_of(model_folder: ModelFolder, family: str) -> tuple[Any, torch.Tensor]:
    """A sparse MLP of transformers, and inputs [T, width]."""
    model = AutoModelForCausalLM.from_pretrained(model_folder(family, **FAMILIES.get(family, {})), dtype=torch.float32)
    mlp = model.model.layers[-1].mlp.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    if (correction := getattr(getattr(mlp, "gate", None), "e_score_correction_bias", None)) is not None:
        correction.normal_(std=0.5, generator=generator)
    return mlp, torch.randn(9, model.config.hidden_size, generator=generator)


@pytest.mark.parametrize("family", [*FAMILIES, "deepseek_v3"])
def test_a_router_chooses_and_weighs_as_its_module(family: str, model_folder: ModelFolder) -> None:
    mlp, inputs = block_of(model_folder, family)
    module = mlp.gate if hasattr(mlp, "gate") else mlp.router
    chosen, weights = router_of(module)(inputs)
    _, expected, experts = module(inputs)
    found = torch.zeros(9, 64).scatter_(1, chosen, weights)
    torch.testing.assert_close(found, torch.zeros(9, 64).scatter_(1, experts, expected.float()))


def test_groups_of_experts_limit_the_choice() -> None:
    logits = torch.tensor([[2.0, -9.0, 1.5, 1.6], [0.0, 1.0, 0.5, -9.0]])
    router = Router(lambda inputs: inputs, 1, "softmax", num_groups=2, num_chosen_groups=1)
    assert router(logits)[0].tolist() == [[0], [1]]
    two = replace(router, group_scores="two largest")
    assert two(logits)[0].tolist() == [[3], [1]]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("has_correction", [False, True])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("num_chosen_groups", [1, 3, 4])
def test_the_kernel_chooses_and_weighs_as_the_router(num_chosen_groups: int, scores: Any, has_correction: bool) -> None:
    generator = torch.Generator().manual_seed(num_chosen_groups)
    router = Router(
        PlainLinear(torch.randn(32, 64, generator=generator) / 8, None),
        4,
        scores,
        scaling=2.5,
        correction=torch.randn(32, generator=generator) if has_correction else None,
        num_groups=4,
        num_chosen_groups=num_chosen_groups,
        group_scores="two largest" if has_correction else "largest",
        in_float32=True,
    )
    inputs = torch.randn(9, 64, generator=generator)
    kernel = native_router(router, load_kernels(torch.float32), torch.float32)
    assert isinstance(kernel, NativeRouter)
    (chosen, weights), (expected, expected_weights) = kernel(inputs), router(inputs)
    assert torch.equal(chosen, expected)
    torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize("family", [*FAMILIES, "deepseek_v3"])
def test_a_sparse_mlp_computes_what_its_module_does(family: str, model_folder: ModelFolder) -> None:
    mlp, inputs = block_of(model_folder, family)
    found = mlp_of(mlp)(inputs, lambda gate_up, name: Activation(name)(gate_up))
    expected = mlp(inputs[None])
    expected = (expected if isinstance(expected, torch.Tensor) else expected[0])[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


class Beside:
    """Experts that are computed when they are waited for; `log` has what happened."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        self.begin(hidden, chosen, weights, out)()

    def begin(
        self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor
    ) -> Callable[[], None]:
        self.log.append("begin")

        def finish() -> None:
            self.log.append("finish")
            out.copy_(weights.sum(dim=1, keepdim=True).expand_as(out))

        return finish


def test_what_is_shared_is_computed_while_experts_are_elsewhere() -> None:
    log: list[str] = []

    def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
        log.append("shared")
        return gate_up

    shared = DenseMlp(lambda inputs: inputs, "silu", lambda inputs: 10 * inputs)
    router = Router(lambda inputs: inputs, 2, "softmax")
    mlp = SparseMlp(router, Beside(log), shared, shared_gate=None)
    normed = torch.randn(3, 4)
    torch.testing.assert_close(mlp(normed, gated), 1 + 10 * normed)
    assert log == ["begin", "shared", "finish"]
    assert mlp(normed[:0], gated).shape == (0, 4) and len(log) == 3  # no token, no experts


def test_a_sparse_mlp_with_other_parts_is_refused(model_folder: ModelFolder) -> None:
    mlp, _ = block_of(model_folder, "mixtral")
    mlp.more = torch.nn.Linear(1, 1)
    with pytest.raises(Unsupported, match="MixtralSparseMoeBlock has the parts"):
        mlp_of(mlp)
    del mlp.more, mlp.gate
    with pytest.raises(Unsupported, match="no router"):
        mlp_of(mlp)
