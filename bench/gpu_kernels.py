"""The memory's bandwidth, and the kernels between the products: norms, rotation, cache writes, activations."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional as F

from bench.gpu_alone import Checks, Timings, can_run_triton, error_of
from bench.gpu_bench import Bench
from bench.gpu_model import SHAPES
from bench.roofline import copy_bandwidth, read_bandwidth

BF16_BOUND = 0.06  # rounding of the largest of many numbers, in their standard deviations
FP8_BOUND = 0.4
BOUNDS = MappingProxyType({torch.bfloat16: BF16_BOUND, torch.float8_e4m3fn: FP8_BOUND})  # the interpreter errs in fp8
EPS = 1e-5
BLOCK = 64  # tokens


def bandwidth(bench: Bench) -> None:
    size = bench.sizes.block_bytes
    measured = {"read": read_bandwidth(bench.device, size), "copy": copy_bandwidth(bench.device, size)}
    bench.report.columns("", "GB/s", "predicted")
    for name, speed in measured.items():
        bench.report.row(name, speed / 1e9, bench.report.predicted(f"bandwidth/{name} GB/s"))
        bench.report.number(f"bandwidth/{name} GB/s", speed / 1e9)


class Shape:
    """Sizes of the kernels' inputs: those of the model, or a few numbers where the interpreter runs them."""

    def __init__(self, bench: Bench) -> None:
        sizes = SHAPES[bench.shape]
        self.device = bench.device
        self.hidden = sizes["hidden_size"]
        self.mlp = sizes["intermediate_size"]
        self.heads, self.kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
        self.dim = self.hidden // self.heads
        self.rows = (1, 32, 700) if bench.shape == "8b" else (3,)

    def random(self, *size: int) -> torch.Tensor:
        return torch.randn(*size, device=self.device, dtype=torch.bfloat16)


@torch.inference_mode()
def elementwise_checks(bench: Bench) -> None:
    if not can_run_triton(bench):
        return
    torch.manual_seed(1)
    shape, checks = Shape(bench), Checks(bench)
    for rows in shape.rows:
        case = f"{rows} rows"
        checks.check("rms_norm", case, BF16_BOUND, partial(norm_error, shape, rows))
        checks.check("add_norm", case, BF16_BOUND, partial(add_norm_error, shape, rows))
        checks.check("swiglu", case, BF16_BOUND, partial(swiglu_error, shape, rows))
        if bench.device.type == "cuda":
            checks.check("to_fp8", case, FP8_BOUND, partial(rounding_error, shape, rows))
        for has_norms in (False, True):
            for dtype, bound in BOUNDS.items() if bench.device.type == "cuda" else [(torch.bfloat16, BF16_BOUND)]:
                name = f"{case}, {'head norms, ' if has_norms else ''}{str(dtype).removeprefix('torch.')}"
                check = partial(rotation_error, shape, rows, dtype, has_norms=has_norms)
                checks.check("rotate_and_write", name, bound, check)
    checks.end()


def exact_norm(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows = rows.double()
    return rows * (rows.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.double()


def norm_error(shape: Shape, rows: int) -> float:
    from worker.kernels.gpu.norms import rms_norm

    hidden, weight = shape.random(rows, shape.hidden), shape.random(shape.hidden)
    return error_of(rms_norm(hidden, weight, EPS), exact_norm(hidden, weight))


def add_norm_error(shape: Shape, rows: int) -> float:
    from worker.kernels.gpu.norms import add_norm

    hidden, change = shape.random(rows, shape.hidden), shape.random(rows, shape.hidden)
    weight = shape.random(shape.hidden)
    added, normed = add_norm(hidden, change, weight, EPS)
    expected = hidden.double() + change.double()
    return max(error_of(added, expected), error_of(normed, exact_norm(added, weight)))


def swiglu_error(shape: Shape, rows: int) -> float:
    from worker.kernels.gpu.activations import gated

    both = shape.random(rows, 2 * shape.mlp)
    gate, up = both.double().chunk(2, dim=-1)
    return error_of(gated(both, "silu"), F.silu(gate) * up)


def rounding_error(shape: Shape, rows: int) -> float:
    from worker.kernels.gpu.rounding import to_fp8

    hidden = shape.random(rows, shape.hidden)
    codes, scales = to_fp8(hidden)
    return error_of(codes.double() * scales.double(), hidden)


def rotation_error(shape: Shape, rows: int, dtype: torch.dtype, *, has_norms: bool) -> float:
    """Of the rotated queries, and of the keys and values in the pools."""
    qkv, arguments, pools = rotation_inputs(shape, rows, dtype, has_norms=has_norms)
    heads, kv_heads = shape.heads, shape.kv_heads
    before = qkv.double().view(rows, -1, shape.dim)
    query, key, value = before[:, :heads], before[:, heads : heads + kv_heads], before[:, heads + kv_heads :]
    cos, sin, norms, slots = arguments[0].double(), arguments[1].double(), arguments[2], arguments[3]
    if norms is not None:
        query, key = exact_norm(query, norms.query), exact_norm(key, norms.key)
    run_rotation(shape, qkv, arguments, pools)
    keys, values = (pool.float().flatten(1, 2)[:, slots].transpose(0, 1).double() for pool in pools)
    rotated = qkv.view(rows, -1, shape.dim)[:, :heads]
    errors = (
        error_of(rotated, turned(query, cos, sin)),
        error_of(keys, turned(key, cos, sin)),
        error_of(values, value),
    )
    return max(errors)


def turned(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


def rotation_inputs(
    shape: Shape, rows: int, dtype: torch.dtype, *, has_norms: bool
) -> tuple[torch.Tensor, tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]]:
    """qkv; (cos, sin, head norms, slots, scales); (keys, values)."""
    from worker.kernels.gpu.rotary import HeadNorms

    qkv = shape.random(rows, (shape.heads + 2 * shape.kv_heads) * shape.dim)
    angle = torch.randn(rows, shape.dim // 2, device=shape.device).repeat(1, 2)
    norms = HeadNorms(shape.random(shape.dim), shape.random(shape.dim), EPS) if has_norms else None
    num_blocks = -(-rows // BLOCK) + 1
    slots = torch.randperm(num_blocks * BLOCK, device=shape.device)[:rows]
    size = (num_blocks, shape.kv_heads, BLOCK, shape.dim)  # in this order in memory
    keys, values = (torch.zeros(size, device=shape.device, dtype=dtype).transpose(0, 1) for _ in range(2))
    is_fp8 = dtype == torch.float8_e4m3fn
    scales = tuple(torch.ones(shape.kv_heads, device=shape.device) if is_fp8 else None for _ in range(2))
    cos, sin = angle.cos().to(torch.bfloat16), angle.sin().to(torch.bfloat16)
    return qkv, (cos, sin, norms, slots, scales), (keys, values)


def run_rotation(shape: Shape, qkv: torch.Tensor, arguments: tuple[Any, ...], pools: Any) -> None:
    from worker.kernels.gpu.rotary import rotate_and_write

    cos, sin, norms, slots, scales = arguments
    keys, values = pools
    rotate_and_write(qkv, cos, sin, norms, slots, keys, values, scales, shape.heads, shape.kv_heads)


@torch.inference_mode()
def elementwise_times(bench: Bench) -> None:
    if not can_run_triton(bench):
        return
    from worker.kernels.gpu.activations import gated
    from worker.kernels.gpu.norms import add_norm

    shape = Shape(bench)
    timings = Timings(bench, bench.read_bandwidth())
    weight = shape.random(shape.hidden)
    for rows in shape.rows:
        case, size = f"{rows} rows", 2 * rows

        def norms(copies: int, rows: int = rows) -> list[Callable[[], object]]:
            made = [(shape.random(rows, shape.hidden), shape.random(rows, shape.hidden)) for _ in range(copies)]
            return [partial(add_norm, *pair, weight, EPS) for pair in made]

        def gates(copies: int, rows: int = rows) -> list[Callable[[], object]]:
            return [partial(gated, shape.random(rows, 2 * shape.mlp), "silu") for _ in range(copies)]

        def rotations(copies: int, rows: int = rows) -> list[Callable[[], object]]:
            made = [rotation_inputs(shape, rows, torch.bfloat16, has_norms=False) for _ in range(copies)]
            return [partial(run_rotation, shape, *each) for each in made]

        timings.time("add_norm", case, 4 * size * shape.hidden, norms)
        timings.time("swiglu", case, 3 * size * shape.mlp, gates)
        timings.time("rotate_and_write", case, 2 * size * (shape.heads + 2 * shape.kv_heads) * shape.dim, rotations)
    timings.end()
