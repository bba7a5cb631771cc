"""Gated activations of an MLP: its gate and up products lie side by side in one buffer."""

from types import MappingProxyType

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.runtime import begin, overlap

ACTIVATIONS = MappingProxyType({"silu": 0, "gelu": 1, "gelu_tanh": 2})  # numbers of the kernel
BLOCK = 1024  # columns of a program: 16 bytes of each half a thread


def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """[T, 2 * width], gates first -> activation(gate) * up [T, width], in float32 inside. The row stride is free."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(num_rows, width, dtype=gate_up.dtype, device=gate_up.device)
    if num_rows:
        gated_kernel[(num_rows, triton.cdiv(width, BLOCK))](
            gate_up, out, width, gate_up.stride(0), ACTIVATION=ACTIVATIONS[activation], BLOCK=BLOCK, num_warps=4,
            **overlap(gate_up.device),
        )  # fmt: skip
    return out


@triton.jit
def gated_kernel(gate_up, out, width, stride, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr):
    """Program (row, block of columns)."""
    begin(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < width
    place = gate_up + row * stride + columns
    gate = tl.load(place, mask=is_inside, other=0.0).to(tl.float32)
    up = tl.load(place + width, mask=is_inside, other=0.0)
    result = activated(gate, ACTIVATION) * up.to(tl.float32)
    tl.store(out + row * width + columns, result.to(up.dtype), mask=is_inside)


@triton.jit
def activated(gate, ACTIVATION: tl.constexpr):
    """Of float32 numbers; ACTIVATION: a number of ACTIVATIONS."""
    if ACTIVATION == 0:
        found = gate * tl.sigmoid(gate)
    elif ACTIVATION == 1:
        found = gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:  # 0.5 * (1 + tanh(x)) is sigmoid(2 * x)
        found = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    return found
