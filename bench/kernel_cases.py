"""The variants of our Triton kernels that a GPU runs, one function for each file of worker/kernels/gpu.

Sizes are those of the 8B Llama on an H100 (32 query heads, 8 of keys, head size 128, hidden size 4096, MLP 14336), and
the odd ones: head sizes 64 and 256, an fp8 KV cache. Each takes 1 to 10 s to compile, so only what differs is listed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class KernelCase:
    """One compiled variant.

    `signature`: the type of each argument that is no constant: "*bf16" (a pointer, always a multiple of 16 bytes),
    "fp32", "i32", or "i32:16" for an integer that is a multiple of 16 at launch (strides mostly). `constants`: the
    constexprs, and what Triton compiles in besides: integers that are 1 at launch and pointers that are None.
    """

    name: str
    kernel: Any  # of @triton.jit
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int


def case_of(
    name: str, kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], num_warps: int
) -> KernelCase:
    """A case whose other arguments are None, of a kernel without loops."""
    constants = {**constants, "OVERLAPS": True} if "OVERLAPS" in kernel.arg_names else constants
    absent = dict.fromkeys(name for name in kernel.arg_names if name not in {*signature, *constants})
    return KernelCase(name, kernel, signature, {**constants, **absent}, num_warps, 3)


def paged_attention_cases() -> list[KernelCase]:
    """Decodes, drafts of three tokens, prompt chunks in tiles. 64 is gpt-oss, 256 Gemma, 192/128 DeepSeek."""
    windows, softcap = {"window": "i32"}, {"softcap": "fp32"}
    return [
        attention_case("decode 128"),
        attention_case("decode 128, one split", is_split=False),
        attention_case("decode 128, pages of 16", page=16),
        attention_case("decode 128, fp8", is_fp8=True),
        attention_case("decode 64", num_shared=8, dims=(64, 64), types={"sinks": "*bf16"} | windows),
        attention_case("decode 96", num_shared=1, dims=(96, 96)),
        attention_case("decode 256", num_shared=2, dims=(256, 256), types=windows | softcap),
        attention_case("decode 192/128", num_shared=1, dims=(192, 128)),
        attention_case("decode 576/512", num_shared=16, dims=(576, 512)),
        attention_case("drafts 128", num_queries=4),
        attention_case("tiles 128", num_queries=32, is_split=False),
        attention_case("tiles 128, short chunks", num_queries=16),
        attention_case("tiles 128, splits", num_queries=32),
        attention_case("tiles 128, fp8", num_queries=32, is_split=False, is_fp8=True),
        attention_case("tiles 64", num_shared=8, num_queries=16, dims=(64, 64), types={"sinks": "*bf16"} | windows),
        attention_case("tiles 256", num_shared=2, num_queries=64, dims=(256, 256), types=windows | softcap),
        attention_case("tiles 192/128", num_shared=1, num_queries=128, dims=(192, 128)),
        combine_case(64, 128),
        combine_case(8, 128),
        combine_case(64, 512),
        write_case(128),
        write_case(128, is_fp8=True),
    ]


def attention_case(
    name: str,
    *,
    num_shared: int = 4,
    num_queries: int = 1,
    dims: tuple[int, int] = (128, 128),
    page: int = 64,
    is_split: bool = True,
    is_fp8: bool = False,
    types: Mapping[str, str] = MappingProxyType({}),
) -> KernelCase:
    """`dims`: of keys and of values."""
    import torch

    from worker.kernels.gpu.paged_attention import attention_kernel, launch_shape

    cache, dtype = ("*fp8e4nv", torch.float8_e4m3fn) if is_fp8 else ("*bf16", torch.bfloat16)
    strides = [name for name in attention_kernel.arg_names if name.startswith(("query_", "key_", "value_"))]
    signature = {name: "i32:16" for name in strides if not name.endswith(("_scales", "_starts"))}
    signature |= dict.fromkeys(("query_starts", "num_keys", "block_table"), "*i32")
    signature |= {
        "query": "*bf16",
        "keys": cache,
        "values": "*i16" if is_fp8 else cache,
        "out": "*fp32" if is_split else "*bf16",
    }
    signature |= {"scale": "fp32", "num_places": "i32", "usual_splits": "i32", "table_row": "i32"} | dict(types)
    if is_split:
        signature["log_sums"] = "*fp32"
    if is_fp8:
        signature |= {"key_scales": "*fp32", "value_scales": "*fp32"}
    if name.startswith("tiles"):
        signature |= {"tile_rows": "*i32", "tile_starts": "*i32"}
    constants = launch_shape(*dims, dtype, num_shared, num_queries)
    constants |= {"KEY_DIM": dims[0], "VALUE_DIM": dims[1], "SHARED": num_shared, "PAGE": page}
    constants["TILE_QUERIES"] = num_queries
    num_warps, num_stages = constants.pop("num_warps"), constants.pop("num_stages")
    case = case_of(f"attention, {name}", attention_kernel, signature, constants, num_warps)
    return replace(case, num_stages=num_stages)


def combine_case(num_splits: int, dim: int) -> KernelCase:
    from worker.kernels.gpu.split_keys import combine_kernel, combine_shape

    constants = combine_shape(num_splits, dim)
    num_warps = constants.pop("num_warps")
    signature = {"parts": "*fp32", "log_sums": "*fp32", "out": "*bf16", "num_keys": "*i32", "query_starts": "*i32"}
    signature |= {"num_splits": "i32", "usual_splits": "i32"}
    constants |= {"VALUE_DIM": dim, "TILE_QUERIES": 1, "BLOCK_N": 64}
    return case_of(f"attention, combine {num_splits} x {dim}", combine_kernel, signature, constants, num_warps)


def write_case(dim: int, *, is_fp8: bool = False) -> KernelCase:
    from worker.kernels.gpu.cache_writes import constants_of, write_kernel

    constants = constants_of(8, dim, dim, 64)
    num_warps = constants.pop("num_warps")
    cache = "*fp8e4nv" if is_fp8 else "*bf16"
    signature = {name: "i32:16" for name in write_kernel.arg_names if name.endswith(("_head", "_block", "_token"))}
    signature |= {"key": "*bf16", "value": "*bf16", "keys": cache, "values": cache}
    signature |= {"slots": "*i64", "num_tokens": "i32"}
    if is_fp8:
        signature |= {"key_scales": "*fp32", "value_scales": "*fp32"}
    return case_of(f"write {dim}{', fp8' * is_fp8}", write_kernel, signature, constants, num_warps)


def norms_cases() -> list[KernelCase]:
    """Llama's widths; with float32 weights and a norm of the change too, Gemma 3's (27B)."""
    from worker.kernels.gpu.norms import norm_kernel
    from worker.kernels.gpu.runtime import warps_for

    strides = {"width": "i32:16", "hidden_stride": "i32:16", "eps": "fp32", "change_eps": "fp32"}
    row = {"hidden": "*bf16", "weight": "*bf16", "normed": "*bf16"} | strides
    change = {"change": "*bf16", "added": "*bf16", "change_stride": "i32:16"}

    def case(name: str, block: int, types: Mapping[str, str]) -> KernelCase:
        return case_of(name, norm_kernel, row | dict(types), {"BLOCK": block}, warps_for(block))

    return [
        case("rms_norm 4096", 4096, {"change_stride": "i32:16"}),
        case("add_norm 4096", 4096, change),
        case("add_norm 8192", 8192, change),
        case("add_norm 5376, both normed", 8192, change | {"change_weight": "*fp32", "weight": "*fp32"}),
    ]


def rotary_cases() -> list[KernelCase]:
    """Llama, Qwen3 (head norms), an fp8 cache, head sizes 64 and 256, three quarters of each head (Phi-4-mini)."""
    from worker.kernels.gpu.rotary import constants_of, rotate_and_write_kernel

    names = rotate_and_write_kernel.arg_names
    strides = {name: "i32:16" for name in names if name.endswith(("_stride", "_head", "_block", "_token"))}
    counts = dict.fromkeys(("heads", "kv_heads", "query_groups", "kv_groups"), "i32") | {"eps": "fp32"}
    pointers = {"qkv": "*bf16", "cos": "*fp32", "sin": "*fp32", "slots": "*i64", "keys": "*bf16", "values": "*bf16"}
    head_norms = {"query_norm": "*bf16", "key_norm": "*bf16"}
    fp8 = {"keys": "*fp8e4nv", "values": "*fp8e4nv", "key_scales": "*fp32", "value_scales": "*fp32"}

    def case(name: str, dim: int, rotated: int, types: Mapping[str, str]) -> KernelCase:
        constants = constants_of(dim, rotated, 64)
        num_warps = constants.pop("num_warps")
        signature = strides | counts | pointers | dict(types)
        return case_of(f"rotate_and_write {name}", rotate_and_write_kernel, signature, constants, num_warps)

    return [
        case("128", 128, 128, {}),
        case("128, head norms", 128, 128, head_norms),
        case("128, fp8 cache", 128, 128, fp8),
        case("64", 64, 64, {}),
        case("256, head norms", 256, 256, {"query_norm": "*fp32", "key_norm": "*fp32"}),
        case("96 of 128, head norms, fp8 cache", 128, 96, head_norms | fp8),
    ]


def activations_cases() -> list[KernelCase]:
    from worker.kernels.gpu.activations import ACTIVATIONS, BLOCK, gated_kernel

    signature = {"gate_up": "*bf16", "out": "*bf16", "width": "i32:16", "stride": "i32:16"}
    return [
        case_of(f"gated, {name}", gated_kernel, signature, {"ACTIVATION": number, "BLOCK": BLOCK}, 4)
        for name, number in ACTIVATIONS.items()
    ]


def rounding_cases() -> list[KernelCase]:
    """Rows of hidden states, and of an MLP of 14336."""
    from worker.kernels.gpu.rounding import to_fp8_kernel
    from worker.kernels.gpu.runtime import warps_for

    row = {"rows": "*bf16", "out": "*fp8e4nv", "scales": "*fp32", "width": "i32:16", "stride": "i32:16"}
    return [
        case_of(
            f"to_fp8 {width}",
            to_fp8_kernel,
            row | {"smallest": "fp32"},
            {"LARGEST": 448.0, "BLOCK": block},
            warps_for(block),
        )
        for width, block in ((4096, 4096), (14336, 16384))
    ]


def sampling_cases() -> list[KernelCase]:
    """Llama 3's vocabulary of 128,256 tokens, and the 262,144 of Gemma 3."""
    from worker.kernels.gpu import sampling

    rest = {"token_ids": "*i64", "vocab_size": "i32:16", "stride": "i32:16", "no_token": "i32"}
    parameters, none = {"parameters": "*fp64"}, {"parameters": None}
    return [
        KernelCase(
            name,
            sampling.sample_kernel,
            {"logits": logits} | rest | ({} if is_greedy else parameters),
            {"NUM_BLOCKS": num_blocks, "BLOCK": sampling.BLOCK, "SPAN": sampling.SPAN} | (none if is_greedy else {}),
            num_warps=sampling.NUM_WARPS,
            num_stages=3,
        )
        for name, logits, num_blocks, is_greedy in (
            ("sample, float32", "*fp32", 16, False),
            ("sample, float32, 262,144 tokens", "*fp32", 32, False),
            ("sample, bf16", "*bf16", 16, False),
            ("sample, float32, all greedy", "*fp32", 16, True),
        )
    ]


def step_inputs_cases() -> list[KernelCase]:
    from worker.kernels.gpu import step_inputs

    pointers = {"table": "*i32", "sampled": "*i64", "longs": "*i64", "ints": "*i32", "block_table": "*i32"}
    signature = pointers | dict.fromkeys(step_inputs.RUNTIME_NUMBERS, "i32")
    constants = {"BLOCK": step_inputs.BLOCK}
    return [KernelCase("fill_step", step_inputs.fill_step_kernel, signature, constants, num_warps=4, num_stages=3)]


FILES: tuple[Callable[[], list[KernelCase]], ...] = (
    paged_attention_cases,
    norms_cases,
    rotary_cases,
    activations_cases,
    rounding_cases,
    sampling_cases,
    step_inputs_cases,
)


def all_cases() -> list[KernelCase]:
    from bench.latent_cases import latent_cases  # which are made of what stands here
    from bench.product_cases import products_cases

    cases = [case for of_file in (*FILES, latent_cases, products_cases) for case in of_file()]
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    return cases
