"""Products with weights in any form, [T, in] -> [T, out]: by our kernels in a chosen configuration, or by torch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
from torch.nn import functional as F

from worker.kernels.gpu.product_kernels import (
    int4_tile_product_kernel,
    sum_of_parts_kernel,
    tile_product_kernel,
    vector_product_kernel,
)
from worker.kernels.gpu.runtime import is_interpreted
from worker.kernels.weights import FEW_ROWS, SCALE_BLOCK, Weights, base

TRITON_VERSION = str(triton.__version__)
MOST_PARTS = 8
PROGRAMS_EACH = 1.75  # multiprocessor has to have so many, for enough bytes to be on their way
FEWEST_TURNS = 4  # of a program's loop, or loads and products do not overlap
SUM_BLOCK = 512
VECTOR_ROWS = 2  # that the vector kernel takes
DENSE_BYTES = 1 << 26  # of weights that torch multiplies at a time, made dense for it


@dataclass(frozen=True, slots=True)
class ProductConfig:
    """How one of the kernels is launched."""

    block_m: int  # rows of inputs in a tile; 0: the vector kernel
    block_n: int
    block_k: int
    num_parts: int  # that the input columns are cut into
    num_warps: int
    num_stages: int


def product(inputs: torch.Tensor, weights: Weights, bias: torch.Tensor | None, config: ProductConfig) -> torch.Tensor:
    """inputs [T, in], of the weights' dtype, with any row stride -> [T, out]. The same numbers each time."""
    if inputs.stride(-1) != 1:
        inputs = inputs.contiguous()
    output = torch.empty(len(inputs), weights.num_out, dtype=weights.dtype, device=inputs.device)
    if len(inputs) == 0:
        return output
    if config.block_m == 0:
        vector_product(inputs, weights, bias, output, config)
    elif config.num_parts == 1:
        tile_product(inputs, weights, bias, output, config)
    else:
        parts = torch.empty(config.num_parts, *output.shape, dtype=torch.float32, device=inputs.device)
        tile_product(inputs, weights, None, parts, config)
        scales = weights.scales if weights.kind in ("int8", "fp8") else None
        grid = (triton.cdiv(weights.num_out, SUM_BLOCK), len(inputs))
        sum_of_parts_kernel[grid](
            parts, scales, bias, output, len(inputs), weights.num_out,
            NUM_PARTS=config.num_parts, BLOCK_N=SUM_BLOCK, num_warps=4,
        )  # fmt: skip
    return output


def tile_product(
    inputs: torch.Tensor, weights: Weights, bias: torch.Tensor | None, output: torch.Tensor, config: ProductConfig
) -> None:
    """Into `output`, [T, out] or [parts, T, out]."""
    num_rows, num_columns = len(inputs), weights.codes.shape[1]
    part = round_up(triton.cdiv(num_columns, config.num_parts), config.block_k)
    grid = (triton.cdiv(weights.num_out, config.block_n) * triton.cdiv(num_rows, config.block_m), config.num_parts)
    options = {
        "IS_PART": config.num_parts > 1, "IN_FLOAT32": is_interpreted(),
        "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k,
        "num_warps": config.num_warps, "num_stages": config.num_stages,
    }  # fmt: skip
    if weights.kind == "int4":
        int4_tile_product_kernel[grid](
            inputs, weights.codes, weights.scales, weights.offsets, bias, output,
            num_rows, weights.num_out, num_columns, weights.num_in, part, inputs.stride(0),
            OFFSET=float(base(weights.dtype) + 8), IS_EVEN=2 * num_columns == weights.num_in, **options,
        )  # fmt: skip
    else:
        tile_product_kernel[grid](
            inputs, weights.codes, weights.scales, bias, output,
            num_rows, weights.num_out, num_columns, part, inputs.stride(0),
            KIND=weights.kind, SCALE_BLOCK=SCALE_BLOCK, IS_EVEN=num_columns % config.block_k == 0, **options,
        )  # fmt: skip


def vector_product(
    inputs: torch.Tensor, weights: Weights, bias: torch.Tensor | None, output: torch.Tensor, config: ProductConfig
) -> None:
    """Into `output` [T, out]; T is at most VECTOR_ROWS."""
    vector_product_kernel[(triton.cdiv(weights.num_out, config.block_n),)](
        inputs, weights.codes, weights.scales, bias, output, weights.num_out, weights.num_in, inputs.stride(0),
        KIND=weights.kind, NUM_ROWS=len(inputs), IS_EVEN=weights.num_in % config.block_k == 0,
        BLOCK_N=config.block_n, BLOCK_K=config.block_k, IN_FLOAT32=is_interpreted(),
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def by_torch(inputs: torch.Tensor, weights: Weights, bias: torch.Tensor | None) -> torch.Tensor:
    """torch's product; quantized weights are made dense for it, some rows at a time."""
    if weights.kind == "dense":
        return F.linear(inputs, weights.codes, bias)
    output = torch.empty(len(inputs), weights.num_out, dtype=weights.dtype, device=inputs.device)
    step = max(1, DENSE_BYTES // (2 * weights.num_in))
    for start in range(0, weights.num_out, step):
        stop = min(start + step, weights.num_out)
        torch.mm(inputs, weights.dense(start, stop).t(), out=output[:, start:stop])
    return output if bias is None else output.add_(bias)


def configs_for(weights: Weights, num_rows: int, num_multiprocessors: int) -> Iterator[ProductConfig]:
    """The configurations worth a measurement for products of up to `num_rows` rows, a likely one first."""
    if num_rows > FEW_ROWS:
        yield from many_rows(weights, num_rows)
        return
    is_scaled_inside = weights.kind in ("int4", "fp8_blocks")
    if weights.kind == "dense" and num_rows <= VECTOR_ROWS:
        yield ProductConfig(0, 4, 1024, 1, 4, 3)
        yield ProductConfig(0, 8, 512, 1, 2, 3)
    elif num_rows == 1 and not is_scaled_inside:  # with two rows, a thread would hold 128 sums
        yield ProductConfig(0, 4, 2048, 1, 4, 3)
        yield ProductConfig(0, 4, 1024, 1, 2, 3)
    if weights.kind == "dense":
        tiles = [(64, 128, 4, 4), (32, 256, 4, 4), (16, 256, 2, 5), (64, 256, 4, 3)]
    elif is_scaled_inside:
        group = weights.group or SCALE_BLOCK
        tiles = [(32, group, 2, 8), (64, group, 2, 6), (64, group, 4, 6)]  # small ones: many on their way at once
    else:
        tiles = [(32, 256, 2, 4), (64, 256, 2, 3), (16, 256, 1, 5), (64, 256, 4, 3)]
    for block_n, block_k, num_warps, num_stages in tiles:
        num_tiles = triton.cdiv(weights.num_out, block_n)
        num_turns = triton.cdiv(weights.codes.shape[1], block_k)
        num_parts = parts_for(num_tiles, num_turns, num_multiprocessors)
        yield ProductConfig(16, block_n, block_k, num_parts, num_warps, num_stages)


def many_rows(weights: Weights, num_rows: int) -> Iterator[ProductConfig]:
    """Tiles in which weights are decoded once for many rows. torch alone is faster for dense ones."""
    if weights.kind == "dense":
        return
    block_k = weights.group or 128
    if num_rows <= 32:
        yield ProductConfig(32, 64, block_k, 1, 4, 4)
        yield ProductConfig(32, 32, block_k, 1, 2, 4)
    else:
        yield ProductConfig(64, 64, block_k, 1, 4, 3)
        yield ProductConfig(64, 128, block_k, 1, 8, 3)
    if num_rows > 64 and weights.kind != "int4":  # which would hold more numbers than there are registers
        yield ProductConfig(128, 128, 64, 1, 8, 3)


def parts_for(num_tiles: int, num_turns: int, num_multiprocessors: int) -> int:
    """A power of two that makes enough programs to fill the GPU, with FEWEST_TURNS each."""
    num_parts = 1
    while num_parts < MOST_PARTS and num_parts * num_tiles < PROGRAMS_EACH * num_multiprocessors:
        if num_turns < 2 * num_parts * FEWEST_TURNS:
            break
        num_parts *= 2
    return num_parts


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
