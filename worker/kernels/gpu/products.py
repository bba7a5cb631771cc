"""Products with weights in any form, [T, in] -> [T, out]: by our kernels in a chosen configuration, or by torch."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch.nn import functional as F

from worker.kernels.gpu.product_kernels import sum_of_parts_kernel, tile_product_kernel, vector_product_kernel
from worker.kernels.gpu.runtime import is_interpreted, overlap
from worker.kernels.packed.weights import FEW_ROWS, SCALE_BLOCK, Weights, base

TRITON_VERSION = str(triton.__version__)
MOST_PARTS = 8
PROGRAMS_EACH = 1.75  # multiprocessor has to have so many, for enough bytes to be on their way
WARPS_EACH = 16  # that it has to have where codes are decoded: each waits for the numbers of its last instruction
FEWEST_TURNS = 4  # of a program's loop, or loads and products do not overlap
SUM_BLOCK = 512
THREAD_COLUMNS = 16  # bytes that a thread of the vector kernel loads at a time
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


def product(
    inputs: torch.Tensor,
    weights: Weights,
    bias: torch.Tensor | None,
    config: ProductConfig,
    *,
    starts_early: bool = True,
) -> torch.Tensor:
    """inputs [T, in], of the weights' dtype, with any row stride -> [T, out]. The same numbers each time.

    `starts_early` False: not before the kernel ahead has ended, as products are compared with torch's.
    """
    if inputs.stride(-1) != 1:
        inputs = inputs.contiguous()
    output = torch.empty(len(inputs), weights.num_out, dtype=weights.dtype, device=inputs.device)
    if len(inputs) == 0:
        return output
    if config.block_m == 0:
        vector_product(inputs, weights, bias, output, config, starts_early)
    elif config.num_parts == 1:
        tile_product(inputs, weights, bias, output, config)
    else:
        parts = torch.empty(config.num_parts, *output.shape, dtype=torch.float32, device=inputs.device)
        tile_product(inputs, weights, None, parts, config)
        scales = weights.scales if scaled_when(weights, config) == "rows" else None
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
    tiles_m = triton.cdiv(num_rows, config.block_m)
    grid = (triton.cdiv(weights.num_out, config.block_n) * tiles_m, config.num_parts)
    tile_product_kernel[grid](
        inputs, weights.codes, weights.scales, weights.offsets, weights.minimums, bias, None, None, output,
        num_rows, weights.num_out, num_columns, weights.num_in, tiles_m, part, inputs.stride(0),
        TOP_K=1, IS_PART=config.num_parts > 1, **constants_of(weights, config),
    )  # fmt: skip


def constants_of(weights: Weights, config: ProductConfig) -> dict[str, Any]:
    """What is compiled into the tile kernel, and its warps and stages."""
    num_columns = weights.codes.shape[-1]
    halves = 2 if is_nibbles(weights) else 1
    return {
        "KIND": weights.kind, "SCALED": scaled_when(weights, config), "GROUP": group_of(weights),
        "BASE": float(base(weights.dtype)), "IN_FLOAT32": is_interpreted(),
        "IS_EVEN": num_columns % config.block_k == 0 and halves * num_columns == weights.num_in,
        "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k,
        "num_warps": config.num_warps, "num_stages": config.num_stages,
    }  # fmt: skip


def vector_constants_of(weights: Weights, config: ProductConfig) -> dict[str, Any]:
    """The same of the vector kernel."""
    constants = constants_of(weights, config)
    del constants["BLOCK_M"]
    return constants | {"COLUMNS": THREAD_COLUMNS if constants["SCALED"] == "inside" else 1}


def scaled_when(weights: Weights, config: ProductConfig) -> str:
    """See tile_product_kernel. Codes are multiplied as they are, exactly, where a turn takes columns of one group."""
    if weights.kind == "dense":
        return ""
    if not weights.group and weights.kind != "fp8_blocks":
        return "rows"
    is_one_group = config.block_m > 0 and group_of(weights) % config.block_k == 0 and weights.minimums is None
    return "after" if is_one_group and weights.kind != "mxfp4" else "inside"


def is_nibbles(weights: Weights) -> bool:
    return weights.kind in ("int4", "mxfp4")


def group_of(weights: Weights) -> int:
    """Columns that share a scale."""
    return weights.group or (SCALE_BLOCK if weights.kind == "fp8_blocks" else weights.num_in)


def vector_product(
    inputs: torch.Tensor,
    weights: Weights,
    bias: torch.Tensor | None,
    output: torch.Tensor,
    config: ProductConfig,
    starts_early: bool,
) -> None:
    """Into `output` [T, out]; T is at most VECTOR_ROWS."""
    constants = vector_constants_of(weights, config)
    vector_product_kernel[(triton.cdiv(weights.num_out, config.block_n),)](
        inputs, weights.codes, weights.scales, weights.offsets, weights.minimums, bias, output,
        weights.num_out, weights.codes.shape[1], weights.num_in, inputs.stride(0), NUM_ROWS=len(inputs), **constants,
        **overlap(inputs.device, starts_early=starts_early),
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
    if num_rows <= VECTOR_ROWS:
        yield from vector_configs(weights, num_rows)
    rows = min(max(16, num_rows), 128)
    for block_m, block_n, block_k, num_warps, num_stages in tiles_for(weights, num_rows):
        num_tiles = triton.cdiv(weights.num_out, block_n) * triton.cdiv(rows, block_m)
        num_turns = triton.cdiv(weights.codes.shape[-1], block_k)
        wanted = PROGRAMS_EACH if weights.kind == "dense" else WARPS_EACH / num_warps
        num_parts = parts_for(num_tiles, num_turns, int(wanted * num_multiprocessors))
        yield ProductConfig(block_m, block_n, block_k, num_parts, num_warps, num_stages)


def vector_configs(weights: Weights, num_rows: int) -> Iterator[ProductConfig]:
    """On an H200, codes with an offset or a minimum gain by eight outputs a program, others by four."""
    if weights.kind == "dense":
        yield ProductConfig(0, 4, 1024, 1, 4, 3)
        yield ProductConfig(0, 8, 512, 1, 2, 3)
    elif weights.group:
        wide, narrow = ProductConfig(0, 8, 1024, 1, 2, 3), ProductConfig(0, 4, 1024, 1, 2, 3)
        yield from (wide, narrow) if weights.kind == "int4" else (narrow, wide)
    elif num_rows == 1 and weights.kind != "fp8_blocks":  # with two rows, a thread would hold 128 sums
        yield ProductConfig(0, 4, 1024, 1, 2, 3)
        yield ProductConfig(0, 4, 2048, 1, 4, 3)


def tiles_for(weights: Weights, num_rows: int) -> Seq[tuple[int, int, int, int, int]]:
    """Blocks of rows, outputs and columns, warps and stages of the tile kernel; the fastest on an H200 first."""
    if weights.kind == "dense":
        return dense_tiles(num_rows)
    block_k = min(group_of(weights), 128)  # of a turn within one group
    scaled = scaled_when(weights, ProductConfig(16, 32, block_k, 1, 2, 4))
    within = scaled == "after" and block_k >= 64
    if num_rows <= FEW_ROWS:
        if scaled == "rows":
            return (16, 64, 256, 2, 3), (16, 32, 256, 2, 4)
        if within:
            return (16, 32, block_k, 2, 4), (16, 64, block_k, 4, 4)
        tiles = (16, 32, 128, 2, 3), (16, 64, 128, 4, 3)
        return tiles if weights.minimums is None else tiles[::-1]
    block_k = block_k if within else 128 if scaled == "rows" else 64
    if num_rows <= 32:
        return (32, 64, block_k, 4, 4), (32, 32, block_k, 2, 4)
    tiles = (64, 64, block_k, 4, 3), (64, 128, block_k, 8, 3)
    # in nibbles, more rows would hold more numbers than there are registers
    return tiles if num_rows <= 64 or is_nibbles(weights) else (*tiles, (128, 128, 64, 8, 3))


def dense_tiles(num_rows: int) -> Seq[tuple[int, int, int, int, int]]:
    """For more rows, torch alone is faster."""
    if num_rows <= FEW_ROWS:
        return (16, 64, 128, 4, 4), (16, 32, 256, 4, 4), (16, 64, 256, 4, 3)
    return ((32, 64, 128, 4, 4), (32, 128, 64, 4, 4)) if num_rows <= 32 else ()


def parts_for(num_tiles: int, num_turns: int, num_programs: int) -> int:
    """A power of two that makes so many programs, with FEWEST_TURNS each."""
    num_parts = 1
    while num_parts < MOST_PARTS and num_parts * num_tiles < num_programs:
        if num_turns < 2 * num_parts * FEWEST_TURNS:
            break
        num_parts *= 2
    return num_parts


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
