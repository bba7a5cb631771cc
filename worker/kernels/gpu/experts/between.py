"""What is computed between and after the products of experts: activations with limits, and the weighted sum."""

import math

import torch
import triton
import triton.language as tl

from worker.kernels.experts.activation import Activate, Activation
from worker.kernels.gpu.activations import ACTIVATIONS, activated
from worker.kernels.gpu.runtime import begin, overlap

BLOCK = 1024  # columns of a program


def activated_outputs(outputs: torch.Tensor, activate: Activate) -> torch.Tensor:
    """Outputs of experts' first matrices -> inputs of the second ones; one launch for those that have gates and a name.

    [rows, 2 * width] -> [rows, width], in float32 inside.
    """
    if not isinstance(activate, Activation) or not activate.has_gate:
        return activate(outputs)
    num_rows, width = outputs.shape[0], outputs.shape[1] // 2
    inputs = torch.empty(num_rows, width, dtype=outputs.dtype, device=outputs.device)
    if num_rows:
        expert_gate_kernel[(num_rows, triton.cdiv(width, BLOCK))](
            outputs, inputs, width, 1 if activate.alternates else width, activate.limit, activate.alpha, activate.shift,
            ACTIVATION=ACTIVATIONS[activate.name], STEP=1 + activate.alternates, HAS_LIMIT=activate.limit != math.inf,
            BLOCK=BLOCK, num_warps=4, **overlap(outputs.device),
        )  # fmt: skip
    return inputs


def weighted_sum(outputs: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
    """outputs [T, k, width], weights [T, k] float32 -> out [T, width]: sums in float32, rounded once."""
    num_tokens, top_k, width = outputs.shape
    if num_tokens:
        weighted_sum_kernel[(num_tokens, triton.cdiv(width, BLOCK))](
            outputs, weights, out, width, TOP_K=top_k, BLOCK=BLOCK, num_warps=4, **overlap(outputs.device)
        )


@triton.jit(do_not_specialize=("up_at",))
def expert_gate_kernel(
    outputs, inputs, width, up_at, limit, alpha, shift,
    ACTIVATION: tl.constexpr, STEP: tl.constexpr, HAS_LIMIT: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Program (row, block of columns). A gate's partner stands `up_at` numbers after it."""
    begin(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < width
    place = outputs + row * width * 2 + columns * STEP
    gate = tl.load(place, mask=is_inside, other=0.0)
    up = tl.load(place + up_at, mask=is_inside, other=0.0).to(tl.float32)
    dtype = gate.dtype
    gate = gate.to(tl.float32)
    if HAS_LIMIT:
        gate = tl.minimum(gate, limit, propagate_nan=tl.PropagateNan.ALL)
        up = tl.clamp(up, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    result = activated(gate * alpha, ACTIVATION) / alpha * (up + shift)
    tl.store(inputs + row * width + columns, result.to(dtype), mask=is_inside)


@triton.jit
def weighted_sum_kernel(outputs, weights, out, width, TOP_K: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr):
    """Program (token, block of columns)."""
    begin(OVERLAPS)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < width
    sums = tl.zeros([BLOCK], tl.float32)
    for at in tl.static_range(TOP_K):
        weight = tl.load(weights + token * TOP_K + at)
        numbers = tl.load(outputs + (token * TOP_K + at) * width + columns, mask=is_inside, other=0.0)
        sums += numbers.to(tl.float32) * weight
    tl.store(out + token * width + columns, sums.to(out.dtype.element_ty), mask=is_inside)
