"""The parts of torch that its documentation does not promise to keep. No other file of worker/ touches such parts.

Each docstring has the reason, and what to check when torch is upgraded; tests/test_seams.py calls them all.
"""

from collections.abc import Callable
from pathlib import Path

import torch


def reorder_weight(weight: torch.Tensor, num_rows: int) -> torch.Tensor:
    """A CPU weight [out, in] in oneDNN's blocked layout, tuned for products of `num_rows` rows.

    Why: F.linear reorders the weight in every call; reordered once, a product takes half the time.
    On an upgrade: linear.can_pack() compares a product and falls back to F.linear; check that it is still true.
    """
    reordered: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), num_rows)
    return reordered


def reordered_product() -> Callable[..., torch.Tensor]:
    """The product with a weight of reorder_weight(): call it with (inputs, weight, bias, "none", [], "").

    Why and on an upgrade: as for reorder_weight(). The operator is returned, because looking it up costs microseconds.
    """
    product: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return product


def has_fast_bf16() -> bool:
    """True if oneDNN multiplies bfloat16 on this processor without converting it to float32.

    Why: torch has no public question for it; on other processors float32 is faster.
    On an upgrade: check that a processor with AVX512 still answers True, else models are served in float32.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


def int8_product(inputs: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """inputs [T, in] times weight [out, in] int8, each output column times its scale [out] -> [T, out].

    Why: torch's only CPU product that reads int8 weights with 16-bit activations.
    On an upgrade: tests/worker/kernels/test_quantized.py compares it with the exact product.
    """
    return torch._weight_int8pack_mm(inputs, weight, scale)


def pack_int4(codes: torch.Tensor) -> torch.Tensor:
    """Codes [out, in], int32 of 0 to 15, in the layout of int4_product().

    Why: the layout depends on the processor and is not documented. The second argument has no meaning on a CPU.
    On an upgrade: as for int4_product().
    """
    return torch._convert_weight_to_int4pack_for_cpu(codes, 1)


def int4_product(
    inputs: torch.Tensor, packed: torch.Tensor, group: int, scales_and_zeros: torch.Tensor
) -> torch.Tensor:
    """inputs [T, in] times weights (code - 8) * scale + zero; scales_and_zeros [in / group, out, 2] -> [T, out].

    Why: torch's only CPU product that reads int4 weights.
    On an upgrade: tests/worker/kernels/test_quantized.py compares it with the exact product.
    """
    return torch._weight_int4pack_mm_for_cpu(inputs, packed, group, scales_and_zeros)


def openmp_library() -> Path | None:
    """The OpenMP runtime that comes with torch; None where torch uses another one than GCC's.

    Why: kernels that load a second runtime would have a second pool of threads on the same cores.
    On an upgrade: check that the wheel still has lib/libgomp*.so*; without it models run without our C kernels.
    """
    return next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), None)
