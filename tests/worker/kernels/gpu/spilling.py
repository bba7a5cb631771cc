"""Prints what the kernel table finds in a kernel that needs more registers than a thread has.

Run it with TRITON_INTERPRET=0.
"""

import triton
import triton.language as tl

from bench.kernel_cases import KernelCase
from bench.kernel_table import as_table, figures


@triton.jit
def big_square(left, size, SIDE: tl.constexpr):
    at = tl.arange(0, SIDE)
    block = tl.load(left + at[:, None] * size + at[None, :])
    tl.store(left + at[:, None] * size + at[None, :], tl.dot(block, block))


def case(side: int, num_warps: int) -> KernelCase:
    return KernelCase(
        f"square of {side}", big_square, {"left": "*fp32", "size": "i32:16"}, {"SIDE": side}, num_warps, 2
    )


if __name__ == "__main__":
    print(as_table([figures(case(16, 1)), figures(case(64, 1))]))
