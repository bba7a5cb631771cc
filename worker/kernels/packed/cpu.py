"""Products with packed weights on a CPU, each computed in the way that was measured as the fastest for its rows."""

from collections.abc import Callable

import torch

from worker.kernels.linear import Linear
from worker.kernels.native import NoKernels
from worker.kernels.packed.by_chunks import ByChunks
from worker.kernels.packed.dense import dense_cpu_linear
from worker.kernels.packed.layout import LaidOut
from worker.kernels.packed.weights import Weights

WAYS = ("exact", "fine", "rounded", "by_conversion")  # of LaidOut
AS_THEY_ARE = ("exact", "by_conversion")  # that do not round inputs
ROWS = (1, 4, 16, 64, 256)  # numbers of rows that are measured; others use the next larger one, or the last


class CpuLinear:
    """A product by our C kernels.

    At first inputs are multiplied as they are, so that a runner can be compared with the stock model. round_inputs()
    allows rounding them, which makes products several times as fast.
    """

    def __init__(self, weights: Weights, bias: torch.Tensor | None) -> None:
        """Raises NoKernels."""
        self.laid_out = LaidOut(weights, bias)
        dtype = str(weights.dtype).removeprefix("torch.")
        self.name = f"{weights.kind} in groups of {weights.group} {dtype} {weights.num_out}x{weights.num_in}"
        self.ways: dict[int, str] = dict.fromkeys(ROWS, "exact")

    def round_inputs(self, way: str) -> None:
        """Inputs are rounded from now on, "fine" or as other engines do ("rounded"), until `ways` are set."""
        if self.laid_out.can_round:
            self.ways = dict.fromkeys(ROWS, way)

    @property
    def all_ways(self) -> tuple[str, ...]:
        return WAYS if self.laid_out.can_round else AS_THEY_ARE

    def compute(self, inputs: torch.Tensor, way: str) -> torch.Tensor:
        multiply: Callable[[torch.Tensor], torch.Tensor] = getattr(self.laid_out, way)
        return multiply(inputs)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        num_rows = len(inputs)
        at = next((rows for rows in ROWS if num_rows <= rows), ROWS[-1])
        return self.compute(inputs, self.ways[at])


def cpu_linear(weights: Weights, bias: torch.Tensor | None) -> Linear:
    """The product with weights that take their inputs in their own order."""
    if weights.kind == "dense":
        return dense_cpu_linear(weights.codes, bias)
    try:
        return CpuLinear(weights, bias)
    except NoKernels:
        return ByChunks(weights, bias)
