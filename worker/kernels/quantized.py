"""Quantized weights: fewer bytes to read per token.

`QUANTIZATIONS` lists the values that OMNI_QUANTIZE may have. int8 and int4 on a CPU are read by our C kernels, which
round activations to int8 where the processor multiplies such numbers (packed/cpu.py); on a GPU by our Triton kernels,
which keep activations in 16 bits. fp8 is for a GPU: up to FEW_ROWS rows keep activations in bf16, more are rounded too,
where the tensor cores multiply fp8 numbers.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from worker.kernels.available import has_triton
from worker.kernels.linear import Linear, has_kernels, kernel_linear
from worker.kernels.packed.encodings import WEIGHTS, cpu_int4_weights
from worker.kernels.packed.linear import packed_linear
from worker.kernels.packed.weights import Weights
from worker.kernels.quantized_linears import FP8_CAPABILITY, FP8_MULTIPLE, FewOrManyRows, Fp8Linear, why_not_fp8

logger = logging.getLogger(__name__)

KERNEL_CAPABILITY = (8, 0)  # the first one with products of bf16
KERNEL_DTYPES = ("auto", "bfloat16", "float16")


class Quantization(ABC):
    """One value of OMNI_QUANTIZE."""

    name: ClassVar[str]
    dtype: ClassVar[torch.dtype] = torch.bfloat16  # of the model, where OMNI_DTYPE is auto

    @abstractmethod
    def check(self, dtype: str, device: torch.device) -> None:
        """Raises ValueError where the device, or OMNI_DTYPE, has no such products."""

    @abstractmethod
    def encode(self, weight: torch.Tensor) -> Weights:
        """`weight` [out, in] quantized."""

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """The product with `weight` [out, in] quantized."""
        return packed_linear(self.encode(weight), bias)

    def fits(self, num_out: int, num_in: int) -> bool:
        """False for widths that stay as they are."""
        return True

    def for_head(self) -> "Quantization":
        """The quantization of the layer that computes logits."""
        return self


@dataclass(frozen=True, slots=True)
class Int8(Quantization):
    name = "int8"

    def check(self, dtype: str, device: torch.device) -> None:
        check_kernels(self, dtype, device)

    def encode(self, weight: torch.Tensor) -> Weights:
        return WEIGHTS["int8"](weight)


@dataclass(frozen=True, slots=True)
class Int4(Quantization):
    name = "int4"

    def check(self, dtype: str, device: torch.device) -> None:
        check_kernels(self, dtype, device)

    def encode(self, weight: torch.Tensor) -> Weights:
        return WEIGHTS["int4"](weight) if has_kernels(weight.device) else cpu_int4_weights(weight)

    def for_head(self) -> Quantization:
        """int8: the logits lose the most by int4."""
        return Int8()


@dataclass(frozen=True, slots=True)
class Fp8(Quantization):
    """For a GPU; on a CPU it is slow and there for tests."""

    name = "fp8"

    def check(self, dtype: str, device: torch.device) -> None:
        """Raises ValueError where there is neither a kernel that reads fp8 weights nor a product of fp8 numbers."""
        if dtype not in ("auto", "bfloat16"):
            raise ValueError(
                f"OMNI_QUANTIZE=fp8 computes in bfloat16, not {dtype}; set OMNI_DTYPE to auto or bfloat16."
            )
        if device.type == "cuda":
            check_capability(self, device, KERNEL_CAPABILITY if has_triton() else FP8_CAPABILITY)
        if (reason := why_not_fp8(device)) and not has_kernels(device):
            raise ValueError(f"OMNI_QUANTIZE=fp8 does not run on {device} with this torch: {reason}")
        if reason:
            logger.warning("OMNI_QUANTIZE=fp8 keeps activations in bf16: no product of fp8 numbers on %s", device)
        if device.type == "cpu":
            logger.warning("OMNI_QUANTIZE=fp8 is slow on a CPU; int8 is not.")

    def fits(self, num_out: int, num_in: int) -> bool:
        return num_out % FP8_MULTIPLE == num_in % FP8_MULTIPLE == 0

    def encode(self, weight: torch.Tensor) -> Weights:
        return WEIGHTS["fp8"](weight)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        weights = self.encode(weight)
        if not has_kernels(weight.device):
            return Fp8Linear(weights, bias)
        if why_not_fp8(weight.device):
            return kernel_linear(weights, bias)
        return FewOrManyRows(kernel_linear(weights, bias, for_few_rows=True), Fp8Linear(weights, bias))


QUANTIZATIONS: tuple[type[Quantization], ...] = (Int8, Int4, Fp8)


def quantization_named(name: str) -> Quantization | None:
    """The quantization of this name; None for an empty one. Raises ValueError for a name that there is not."""
    if not name:
        return None
    for kind in QUANTIZATIONS:
        if kind.name == name:
            return kind()
    raise ValueError(f"{name!r} is not a quantization; {', '.join(kind.name for kind in QUANTIZATIONS)} are.")


def check_kernels(quantization: Quantization, dtype: str, device: torch.device) -> None:
    """Raises ValueError for a device without kernels that read such weights, or a dtype that they do not compute in."""
    if device.type == "cpu":
        return
    name = f"OMNI_QUANTIZE={quantization.name}"
    if device.type == "cuda":
        check_capability(quantization, device, KERNEL_CAPABILITY)
    if not has_kernels(device):
        raise ValueError(f"{name} needs Triton and an NVIDIA GPU, or a CPU; leave it empty.")
    if dtype not in KERNEL_DTYPES:
        raise ValueError(f"{name} computes in 16 bits on a GPU, not {dtype}; set OMNI_DTYPE to auto or bfloat16.")


def check_capability(quantization: Quantization, device: torch.device, needed: tuple[int, int]) -> None:
    """Raises ValueError for an older GPU."""
    if (capability := torch.cuda.get_device_capability(device)) < needed:
        found, least = (".".join(map(str, version)) for version in (capability, needed))
        raise ValueError(
            f"OMNI_QUANTIZE={quantization.name} needs a GPU of compute capability {least} or higher; "
            f"this one has {found}."
        )
