"""The variants of our Triton kernels that a GPU runs, one function for each file of worker/kernels/gpu.

Sizes are those of the 8B Llama on an H100 (32 query heads, 8 of keys, head size 128, hidden size 4096, MLP 14336), and
the odd ones: head sizes 64 and 256, an fp8 KV cache. Each takes 1 to 10 s to compile, so only what differs is listed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


def paged_attention_cases() -> list[KernelCase]:
    return []


def norms_cases() -> list[KernelCase]:
    return []


def rotary_cases() -> list[KernelCase]:
    return []


def activations_cases() -> list[KernelCase]:
    return []


def products_cases() -> list[KernelCase]:
    return []


def sampling_cases() -> list[KernelCase]:
    return []


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
    products_cases,
    sampling_cases,
    step_inputs_cases,
)


def all_cases() -> list[KernelCase]:
    cases = [case for of_file in FILES for case in of_file()]
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    return cases
