"""The routed experts of a model without its numbers: which parameters they are, and how many of them a step reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worker.kernels.experts.layer import matrix_names
from worker.models.config_fields import experts_per_token
from worker.models.experts.source import expert_modules


@dataclass(frozen=True, slots=True)
class Matrices:
    """One of the two matrices of each expert of a layer."""

    name: str  # of the parameter
    num_experts: int
    num_out: int
    num_in: int

    @property
    def num_numbers(self) -> int:
        return self.num_experts * self.num_out * self.num_in


def expert_matrices(model: Any) -> Iterator[Matrices]:
    """Of each layer with routed experts that our kernels compute, both."""
    for module_name, module in expert_modules(model.named_modules()):
        for name in matrix_names(module):
            num_experts, *sides = getattr(module, name).shape
            num_in, num_out = sides if module.is_transposed else reversed(sides)
            yield Matrices(f"{module_name}.{name}", num_experts, num_out, num_in)


def expert_tensors(model: Any) -> set[int]:
    """The ids of all parameters of routed experts, those too that transformers computes."""
    modules = (module for module in model.modules() if type(module).__name__.endswith("Experts"))
    return {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}


def num_routed(model: Any) -> int:
    """Numbers of all routed experts that our kernels compute."""
    return sum(matrices.num_numbers for matrices in expert_matrices(model))


def share_of(model: Any, num_tokens: int) -> float:
    """Of all experts' bytes, those that a step of so many tokens reads, if each token chooses at random."""
    num_experts = next(expert_matrices(model)).num_experts
    return 1.0 - float(1 - experts_per_token(model.config) / num_experts) ** num_tokens
