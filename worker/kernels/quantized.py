"""Quantized weights: fewer bytes to read per token.

`QUANTIZATIONS` lists the values that OMNI_QUANTIZE may have. int8 and int4 run on a CPU and keep activations in bf16:
few rows are limited by memory and use torch's kernels; many rows are limited by arithmetic, where it is faster to
convert the weights to bf16 once per call. fp8 is for a GPU's tensor cores and rounds activations too.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F
from torch.nn.functional import ScalingType, scaled_mm

from worker.kernels.elementwise import fp8_rounding, to_fp8
from worker.kernels.linear import Linear
from worker.kernels.torch_seams import int4_product, int8_product, pack_int4

logger = logging.getLogger(__name__)

MAX_KERNEL_ROWS_INT8 = 20  # measured: above this, converting the weights first is faster
MAX_KERNEL_ROWS_INT4 = 32
GROUP = 32  # input weights that share one int4 scale
FP8_MULTIPLE = 16  # both widths are multiples of it, or the GPU has no product
FP8_CAPABILITY = (8, 9)  # the first compute capability with fp8 tensor cores


class Int8Linear:
    """Symmetric int8, one scale per output row."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        scale = weight.float().abs().amax(dim=1).clamp_(min=1e-8) / 127
        self.weight = (weight.float() / scale[:, None]).round_().to(torch.int8)  # [out, in]
        self.scale = scale.to(weight.dtype)
        self.bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) <= MAX_KERNEL_ROWS_INT8:
            output = int8_product(inputs.contiguous(), self.weight, self.scale)
        else:
            output = F.linear(inputs, self.weight.to(inputs.dtype)).mul_(self.scale)
        return output if self.bias is None else output.add_(self.bias)


class Int4Linear:
    """Asymmetric int4 in groups of GROUP inputs, kept twice: in the kernel's layout, and as nibbles to convert."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        num_out, num_in = weight.shape
        grouped = weight.float().view(num_out, num_in // GROUP, GROUP)
        low, high = grouped.amin(dim=-1, keepdim=True), grouped.amax(dim=-1, keepdim=True)
        scale = ((high - low) / 15).clamp_(min=1e-8)
        codes = ((grouped - low) / scale).round_().clamp_(0, 15).to(torch.int32).view(num_out, num_in)
        zero = low + 8 * scale  # the kernel computes (code - 8) * scale + zero
        self.scales_and_zeros = torch.cat([scale, zero], dim=-1).transpose(0, 1).contiguous().to(weight.dtype)
        self.packed = pack_int4(codes)
        self.nibbles = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)
        self.bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) <= MAX_KERNEL_ROWS_INT4:
            output = int4_product(inputs.contiguous(), self.packed, GROUP, self.scales_and_zeros)
        else:
            output = F.linear(inputs, self.converted())
        return output if self.bias is None else output.add_(self.bias)

    def converted(self) -> torch.Tensor:
        """The weights that the codes stand for, [out, in]."""
        num_out = len(self.nibbles)
        scale, zero = self.scales_and_zeros.transpose(0, 1).contiguous().unbind(-1)  # [out, groups]
        codes = torch.stack([self.nibbles & 15, self.nibbles >> 4], dim=-1).view(num_out, -1, GROUP)
        weight = torch.addcmul((zero - 8 * scale)[..., None], codes.to(self.scales_and_zeros.dtype), scale[..., None])
        return weight.view(num_out, -1)


class Fp8Linear:
    """e4m3 with one scale per output row. Inputs are rounded to e4m3 too, with one scale per token; returns bf16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Both widths are multiples of FP8_MULTIPLE."""
        self.weight, scale = to_fp8(weight)  # [out, in]
        self.scale = scale.view(1, -1)
        self.bias = None if bias is None else bias.bfloat16()
        self.to_fp8 = fp8_rounding(weight.device)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        rows, scale = self.to_fp8(inputs)
        return scaled_mm(
            rows,
            self.weight.t(),
            scale,
            ScalingType.RowWise,
            self.scale,
            ScalingType.RowWise,
            bias=self.bias,
            output_dtype=torch.bfloat16,
            use_fast_accum=True,  # shorter sums, where the tensor cores have them
        )


class Quantization(ABC):
    """One value of OMNI_QUANTIZE."""

    name: ClassVar[str]
    dtype: ClassVar[torch.dtype] = torch.bfloat16  # of the model, where OMNI_DTYPE is auto

    @abstractmethod
    def check(self, dtype: str, device: torch.device) -> None:
        """Raises ValueError where the device, or OMNI_DTYPE, has no such products."""

    @abstractmethod
    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """The product with `weight` [out, in] quantized."""

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
        check_is_cpu(self, device)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return Int8Linear(weight, bias)


@dataclass(frozen=True, slots=True)
class Int4(Quantization):
    """Falls back to int8 where the widths are not multiples of GROUP."""

    name = "int4"

    def check(self, dtype: str, device: torch.device) -> None:
        check_is_cpu(self, device)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        fits = weight.shape[0] % GROUP == weight.shape[1] % GROUP == 0
        return Int4Linear(weight, bias) if fits else Int8Linear(weight, bias)

    def for_head(self) -> Quantization:
        """int8: the logits lose the most by int4."""
        return Int8()


@dataclass(frozen=True, slots=True)
class Fp8(Quantization):
    """For a GPU; on a CPU it is slow and there for tests."""

    name = "fp8"

    def check(self, dtype: str, device: torch.device) -> None:
        """Checks the GPU's capability, then computes a product."""
        if dtype not in ("auto", "bfloat16"):
            raise ValueError(
                f"OMNI_QUANTIZE=fp8 computes in bfloat16, not {dtype}; set OMNI_DTYPE to auto or bfloat16."
            )
        if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < FP8_CAPABILITY:
            found, needed = (".".join(map(str, version)) for version in (capability, FP8_CAPABILITY))
            raise ValueError(
                f"OMNI_QUANTIZE=fp8 needs a GPU of compute capability {needed} or higher; this one has {found}."
            )
        ones = torch.ones(FP8_MULTIPLE, FP8_MULTIPLE, dtype=torch.bfloat16, device=device)
        try:
            Fp8Linear(ones, None)(ones)
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise ValueError(f"OMNI_QUANTIZE=fp8 does not run on {device} with this torch: {error}") from error
        if device.type == "cpu":
            logger.warning("OMNI_QUANTIZE=fp8 is slow on a CPU; int8 is not.")

    def fits(self, num_out: int, num_in: int) -> bool:
        return num_out % FP8_MULTIPLE == num_in % FP8_MULTIPLE == 0

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return Fp8Linear(weight, bias)


QUANTIZATIONS: tuple[type[Quantization], ...] = (Int8, Int4, Fp8)


def quantization_named(name: str) -> Quantization | None:
    """The quantization of this name; None for an empty one. Raises ValueError for a name that there is not."""
    if not name:
        return None
    for kind in QUANTIZATIONS:
        if kind.name == name:
            return kind()
    raise ValueError(f"{name!r} is not a quantization; {', '.join(kind.name for kind in QUANTIZATIONS)} are.")


def check_is_cpu(quantization: Quantization, device: torch.device) -> None:
    """Raises ValueError on a GPU."""
    if device.type != "cpu":
        raise ValueError(
            f"OMNI_QUANTIZE={quantization.name} is for a CPU only; on a GPU leave it empty or set {Fp8.name}."
        )
