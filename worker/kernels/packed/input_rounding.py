"""The rounding of activations that some checkpoints are made for: fp8 and int8, one scale per token."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

from worker.kernels.elementwise import SMALLEST_PEAK, to_fp8
from worker.kernels.packed.tensor import PackedTensor

INT8_MAX = 127


def rounded_inputs(inputs: torch.Tensor, kind: Literal["", "int8", "fp8"]) -> torch.Tensor:
    """`inputs` [..., in] as their codes stand for them."""
    if not kind:
        return inputs
    if kind == "fp8":
        codes, scale = to_fp8(inputs.flatten(0, -2))
        return (codes.float() * scale).to(inputs.dtype).view(inputs.shape)
    scale = inputs.abs().amax(dim=-1, keepdim=True).float().clamp(min=SMALLEST_PEAK) / INT8_MAX
    return ((inputs.float() / scale).round() * scale).to(inputs.dtype)


def layers_that_round(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Linear layers whose checkpoint rounds their inputs."""
    return [
        module
        for module in model.modules()
        if isinstance(weight := getattr(module, "weight", None), PackedTensor) and weight.weights.inputs
    ]


@contextmanager
def inputs_rounded(model: torch.nn.Module) -> Iterator[None]:
    """Within this, the model's layers_that_round() do so. Products on a CPU and of few rows on a GPU do not."""

    def rounded(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs, *rest = args
        weight = module.weight
        assert isinstance(weight, PackedTensor)
        return (rounded_inputs(inputs, weight.weights.inputs), *rest)

    with ExitStack() as hooks:
        for layer in layers_that_round(model):
            hooks.callback(layer.register_forward_pre_hook(rounded).remove)
        yield
