"""The variants of our product kernels that a GPU runs, for every form of weights; see kernel_cases.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch

from bench.kernel_cases import KernelCase, case_of
from worker.kernels.gpu import product_kernels as kernels
from worker.kernels.gpu.experts import between, groups, routing
from worker.kernels.gpu.products import ProductConfig, constants_of, vector_constants_of
from worker.kernels.packed.weights import WeightKind, Weights

WIDTHS = MappingProxyType({"N": "i32:16", "K": "i32:16", "input_stride": "i32:16"})


@dataclass(frozen=True)
class Form:
    """Of weights: types of codes and scales, columns of a group, and what decodes a code besides the scale."""

    codes: str
    scales: str = "*fp32"
    group: int = 0
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> WeightKind:
        kind: Any = self.codes.partition(" ")[0]
        found: WeightKind = kind
        return found


DENSE, INT8, FP8, FP8_BLOCKS = Form("dense"), Form("int8"), Form("fp8"), Form("fp8_blocks", group=128)
INT4 = Form("int4", "*bf16", 64, MappingProxyType({"offsets": "*bf16"}))
GPTQ = Form("int4 128", "*fp16", 128, MappingProxyType({"offsets": "*bf16"}))
Q4_K = Form("int4 32 minimums", "*fp16", 32, MappingProxyType({"minimums": "*fp16"}))
Q8_0, Q6_K = Form("int8 32", "*fp16", 32), Form("int8 16", "*fp16", 16)
Q5_K = Form("int8 32 minimums", "*fp16", 32, MappingProxyType({"minimums": "*fp16"}))
MXFP4 = Form("mxfp4", "*u8", 32)
CODES = MappingProxyType(
    {"dense": "*bf16", "int8": "*i8", "int4": "*u8", "fp8": "*u8", "fp8_blocks": "*u8", "mxfp4": "*u8"}
)


def products_cases() -> list[KernelCase]:
    """Widths of the 8B Llama are multiples of every block; those of gpt-oss-20b's experts are not."""
    sums = {"parts": "*fp32", "scales": "*fp32", "output": "*bf16", "M": "i32", "N": "i32:16"}
    return [
        vector_case(DENSE, 1, ProductConfig(0, 4, 1024, 1, 4, 3)),
        vector_case(DENSE, 2, ProductConfig(0, 4, 1024, 1, 4, 3)),
        vector_case(DENSE, 1, ProductConfig(0, 8, 512, 1, 2, 3)),
        vector_case(INT8, 1, ProductConfig(0, 4, 2048, 1, 4, 3)),
        vector_case(FP8, 1, ProductConfig(0, 4, 2048, 1, 4, 3)),
        tile_case(DENSE, 16, ProductConfig(16, 64, 128, 1, 4, 4)),
        tile_case(DENSE, 16, ProductConfig(16, 64, 128, 4, 4, 4)),
        tile_case(DENSE, 16, ProductConfig(16, 32, 256, 1, 4, 4)),
        tile_case(DENSE, 16, ProductConfig(16, 64, 256, 1, 4, 3)),
        tile_case(INT8, 16, ProductConfig(16, 32, 256, 1, 2, 4)),
        tile_case(INT8, 16, ProductConfig(16, 32, 256, 2, 2, 4)),
        tile_case(INT8, 16, ProductConfig(16, 64, 256, 1, 2, 3)),
        tile_case(INT4, 16, ProductConfig(16, 32, 64, 4, 2, 4)),
        tile_case(INT4, 16, ProductConfig(16, 64, 64, 1, 4, 4)),
        tile_case(FP8, 16, ProductConfig(16, 32, 256, 1, 2, 4)),
        tile_case(FP8, 16, ProductConfig(16, 32, 256, 1, 2, 4), inputs="fp16"),
        tile_case(replace(INT4, parts={}, scales="*fp16"), 16, ProductConfig(16, 32, 64, 1, 2, 4), inputs="fp16"),
        tile_case(INT8, 16, ProductConfig(16, 32, 256, 1, 2, 4), is_even=False),
        tile_case(FP8_BLOCKS, 16, ProductConfig(16, 32, 128, 1, 2, 8)),
        tile_case(INT8, 32, ProductConfig(32, 64, 128, 1, 4, 4)),
        tile_case(INT8, 64, ProductConfig(64, 128, 128, 1, 8, 3)),
        tile_case(INT8, 128, ProductConfig(128, 128, 64, 1, 8, 3)),
        tile_case(INT4, 64, ProductConfig(64, 128, 64, 1, 8, 3)),
        tile_case(DENSE, 32, ProductConfig(32, 64, 128, 1, 4, 4)),
        tile_case(DENSE, 32, ProductConfig(32, 128, 64, 1, 4, 4)),
        *packed_cases(),
        *(group_case(num_experts) for num_experts in (32, 256)),
        *between_cases(),
        case_of("product, sum of 4 parts", kernels.sum_of_parts_kernel, sums, {"NUM_PARTS": 4, "BLOCK_N": 512}, 4),
    ]


def packed_cases() -> list[KernelCase]:
    """Of checkpoints: GPTQ and AWQ, GGUF, gpt-oss."""
    few, many = ProductConfig(16, 32, 128, 1, 2, 3), ProductConfig(64, 128, 64, 1, 8, 3)
    return [
        *(vector_case(form, 1, ProductConfig(0, 4, 1024, 1, 2, 3)) for form in (INT4, Q4_K, Q6_K, MXFP4)),
        vector_case(Q4_K, 2, ProductConfig(0, 4, 1024, 1, 2, 3)),
        tile_case(GPTQ, 16, few),
        tile_case(GPTQ, 64, ProductConfig(64, 64, 128, 1, 4, 3)),
        *(tile_case(form, 16, few) for form in (Q4_K, Q8_0, Q6_K, Q5_K, MXFP4)),
        *(tile_case(form, 64, many) for form in (Q4_K, Q6_K, MXFP4)),
        tile_case(Q4_K, 16, ProductConfig(16, 64, 128, 1, 4, 3)),
        *(vector_case(form, 1, ProductConfig(0, 8, 1024, 1, 2, 3)) for form in (INT4, Q4_K)),
        tile_case(MXFP4, 16, ProductConfig(16, 32, 64, 1, 2, 4), is_even=False, has_experts=True),
        tile_case(MXFP4, 32, ProductConfig(32, 32, 64, 1, 2, 4), is_even=False, has_experts=True),
        tile_case(MXFP4, 64, ProductConfig(64, 64, 64, 1, 4, 3), is_even=False, has_experts=True),
        tile_case(DENSE, 16, ProductConfig(16, 64, 128, 1, 4, 4), has_experts=True),
    ]


def group_case(num_experts: int) -> KernelCase:
    signature = {"expert_ids": "*i64", "block_experts": "*i32", "slots": "*i32"}
    signature |= dict.fromkeys(("num_rows", "num_blocks", "num_slots"), "i32")
    constants = {"BLOCK_M": 16, "BLOCK_E": num_experts, "BLOCK_S": max(16, groups.TILE // num_experts)}
    return case_of(f"groups of rows by {num_experts} experts", groups.group_kernel, signature, constants, 8)


def between_cases() -> list[KernelCase]:
    """Of gpt-oss, and the router of DeepSeek-V3."""
    gate = {"outputs": "*bf16", "inputs": "*bf16", "width": "i32:16", "up_at": "i32"}
    gate |= dict.fromkeys(("limit", "alpha", "shift"), "fp32")
    sums = {"outputs": "*bf16", "weights": "*fp32", "out": "*bf16", "width": "i32:16"}
    router = {"logits": "*fp32", "correction": "*fp32", "chosen": "*i64", "weights": "*fp32", "num_experts": "i32:16"}
    router |= {"stride": "i32:16", "scaling": "fp32", "least_sum": "fp32"}
    ways = {"TOP_K": 8, "BY_SIGMOID": True, "HAS_CORRECTION": True, "RENORMALIZES": True, "NUM_GROUPS": 8}
    ways |= {"NUM_CHOSEN_GROUPS": 4, "NUM_BEST": 2, "BLOCK_E": 256, "BLOCK_K": 8, "BLOCK_G": 8}
    clamped = {"ACTIVATION": 0, "STEP": 2, "HAS_LIMIT": True, "BLOCK": between.BLOCK}
    return [
        case_of("gates of experts, limited", between.expert_gate_kernel, gate, clamped, 4),
        case_of("sum of 8 experts", between.weighted_sum_kernel, sums, {"TOP_K": 8, "BLOCK": between.BLOCK}, 4),
        case_of("8 of 256 experts, of 4 of 8 groups", routing.route_kernel, router, ways, 1),
    ]


def vector_case(form: Form, num_rows: int, config: ProductConfig) -> KernelCase:
    constants: dict[str, Any] = vector_constants_of(weights_of(form, torch.bfloat16), config)
    constants |= {"NUM_ROWS": num_rows, "IS_EVEN": True, "IN_FLOAT32": False}
    num_warps, num_stages = constants.pop("num_warps"), constants.pop("num_stages")
    types = {"inputs": "*bf16", "weights": CODES[form.kind], "output": "*bf16", "num_inputs": "i32:16"}
    types |= {**WIDTHS, **form.parts}
    if form.kind != "dense":
        types["scales"] = form.scales
    name = f"product {form.codes}, {num_rows} rows, {config.block_n} x {config.block_k}"
    return replace(case_of(name, kernels.vector_product_kernel, types, constants, num_warps), num_stages=num_stages)


def weights_of(form: Form, dtype: torch.dtype) -> Weights:
    """None of their numbers: what constants_of() asks for."""
    nothing = torch.empty(0, 4096)
    group = 0 if form is FP8_BLOCKS else form.group
    parts: Any = dict.fromkeys(form.parts, nothing)
    return Weights(form.kind, dtype, 4096, nothing, group=group, **parts)


def tile_case(
    form: Form,
    num_rows: int,
    config: ProductConfig,
    *,
    inputs: str = "bf16",
    is_even: bool = True,
    has_experts: bool = False,
) -> KernelCase:
    is_part = config.num_parts > 1
    weights = weights_of(form, torch.float16 if inputs == "fp16" else torch.bfloat16)
    constants: dict[str, Any] = constants_of(weights, config) | {"IN_FLOAT32": False, "IS_EVEN": is_even}
    constants |= {"TOP_K": 4 if has_experts else 1, "IS_PART": is_part}
    num_warps, num_stages = constants.pop("num_warps"), constants.pop("num_stages")
    types = {"inputs": f"*{inputs}", "weights": CODES[form.kind], "output": "*fp32" if is_part else f"*{inputs}"}
    types |= {"M": "i32", "num_inputs": "i32:16", "tiles_m": "i32", "PART": "i32:16", **WIDTHS, **form.parts}
    if form.kind != "dense":
        types["scales"] = form.scales
    if has_experts:
        types |= {"block_experts": "*i32", "slots": "*i32"}
    marks = [f"{num_rows} rows", f"{config.block_n} x {config.block_k}"]
    marks += ["parts"] * is_part + ["fp16"] * (inputs == "fp16") + ["odd"] * (not is_even) + ["experts"] * has_experts
    made = case_of(
        f"product {form.codes}, {', '.join(marks)}", kernels.tile_product_kernel, types, constants, num_warps
    )
    return replace(made, num_stages=num_stages)
