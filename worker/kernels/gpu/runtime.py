"""What the kernels share: a matrix product that is also right in Triton's interpreter, fp8, warps."""

import triton
import triton.language as tl


def is_interpreted() -> bool:
    """True in tests: Triton's interpreter runs the kernels on a CPU, one program after the other."""
    return bool(triton.knobs.runtime.interpret)


@triton.jit
def dot(left, right, sums, IN_FLOAT32: tl.constexpr):
    """`sums` + left @ right, in float32. The interpreter multiplies the bit patterns of bf16, so it gets IN_FLOAT32.

    triton-lang/triton#11584. Launchers pass is_interpreted().
    """
    if IN_FLOAT32:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), sums, input_precision="ieee")
    return tl.dot(left, right, sums)


@triton.jit
def saturated(numbers):
    """float32 limited to the range of e4m3, whose numbers beyond it are NaN."""
    return tl.clamp(numbers, -448.0, 448.0)


def warps_for(block: int) -> int:
    """Warps of a program that holds `block` numbers: 16 a thread, and more only for rows beyond 8,192."""
    return max(1, min(32 if block > 16384 else 16, block // 512))
