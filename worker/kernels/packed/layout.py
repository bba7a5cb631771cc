"""Packed weights in the order that the C kernels of worker/kernels/packed.h read, and products with them."""

import ctypes
from functools import cache

import torch
from torch.nn import functional as F

from worker.kernels.native import NoKernels, load_kernels
from worker.kernels.packed.weights import E2M1, E8M0_BIAS, Weights, base

PANEL = 16  # outputs side by side
CHUNK_NUMBERS = 1 << 22  # of dense weights at a time
ROUNDED = 32  # inputs that are rounded together
FORMS = (torch.float16, torch.bfloat16, torch.float32)  # of scales
E2M1_DOUBLED = tuple(int(2 * number) for number in (*E2M1, *(-number for number in E2M1)))


class CPacked(ctypes.Structure):
    """Packed of packed.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "minimums", "offsets", "values", "bias")),
        *((name, ctypes.c_int32) for name in ("num_out", "num_in", "bits", "group", "form", "zero", "kind")),
    )


@cache
def kernels_for(dtype: torch.dtype) -> ctypes.CDLL:
    """Loaded once. Raises NoKernels."""
    return load_kernels(dtype)


def can_lay_out(weights: Weights) -> bool:
    """True for forms that the kernels read."""
    if weights.codes.dim() != 2 or weights.scales is None:
        return False
    if weights.kind == "int8":
        return weights.group in (0, PANEL) or weights.group % ROUNDED == 0
    return weights.kind in ("int4", "mxfp4") and weights.group % ROUNDED == 0


class LaidOut:
    """A matrix whose codes, scales, and what else they need to be decoded, lie as the kernels read them."""

    def __init__(self, weights: Weights, bias: torch.Tensor | None) -> None:
        """Raises NoKernels where there is no compiler, and for forms that can_lay_out() denies."""
        if not can_lay_out(weights):
            raise NoKernels(f"no kernel reads {weights.kind} in groups of {weights.group}")
        assert weights.scales is not None
        self.dtype = weights.dtype
        self.num_out, self.num_in = weights.num_out, weights.num_in
        self.width = -(-weights.num_in // ROUNDED) * ROUNDED
        bits, group = (8 if weights.kind == "int8" else 4), weights.group or self.width
        scales = weights.scales if weights.kind != "mxfp4" else halved_powers(weights.scales)
        offsets = None if weights.offsets is None else (weights.offsets.float() - base(weights.dtype)).to(torch.uint8)
        zero = 128 if bits == 8 else 8
        if weights.kind == "mxfp4":
            zero = -min(E2M1_DOUBLED)
        elif bits == 4 and (offsets is not None or weights.minimums is not None):
            zero = 0
        values = bytes(number + zero for number in E2M1_DOUBLED) if weights.kind == "mxfp4" else None
        self.scales = self.in_panels(scales, group)
        self.minimums = None if weights.minimums is None else self.in_panels(weights.minimums.to(scales.dtype), group)
        self.offsets = None if offsets is None else self.in_panels(offsets, group)
        self.values = None if values is None else torch.frombuffer(bytearray(values), dtype=torch.uint8)
        self.bias = None if bias is None else bias.to(weights.dtype).contiguous()
        self.codes = torch.empty(-(-self.num_out // PANEL) * PANEL * self.width * bits // 8, dtype=torch.uint8)
        self.numbers = [self.num_out, self.width, bits, group, FORMS.index(self.scales.dtype), zero]
        self.bind()
        codes = weights.codes.contiguous()
        self.kernels.pack_codes(
            codes.data_ptr(), codes.shape[1], self.num_in, 0x80 if bits == 8 else 0, self.address, self.codes.data_ptr()
        )

    def bind(self) -> None:
        """Find the kernels, and tell them where the tensors lie: of a product that was made before, too."""
        self.kernels = kernels_for(self.dtype)
        tensors = (self.codes, self.scales, self.minimums, self.offsets, self.values, self.bias)
        self.packed = CPacked(*(None if part is None else part.data_ptr() for part in tensors), *self.numbers)
        self.address = ctypes.addressof(self.packed)

    def in_panels(self, numbers: torch.Tensor, group: int) -> torch.Tensor:
        """[out] or [out, groups] -> [panels, groups, PANEL]."""
        numbers = numbers.view(self.num_out, -1)
        num_groups = -(-self.width // group)
        missing = (0, num_groups - min(num_groups, numbers.shape[1]), 0, -self.num_out % PANEL)
        return F.pad(numbers[:, :num_groups], missing).view(-1, PANEL, num_groups).transpose(1, 2).contiguous()

    @property
    def num_bytes(self) -> int:
        """That this holds."""
        parts = (self.codes, self.scales, self.minimums, self.offsets, self.bias)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    @property
    def can_round(self) -> bool:
        """True where there are rounded() and fine(): on processors with AVX512-VNNI."""
        return bool(self.kernels.can_round())

    def exact(self, inputs: torch.Tensor) -> torch.Tensor:
        """The product in float32 with inputs [T, in] as they are -> [T, out]."""
        return self._computed(self.kernels.multiply_exact, inputs)

    def rounded(self, inputs: torch.Tensor) -> torch.Tensor:
        """The product with inputs rounded to int8, each ROUNDED of a token with one scale -> [T, out]."""
        return self._computed(self.kernels.multiply_rounded, inputs)

    def fine(self, inputs: torch.Tensor) -> torch.Tensor:
        """As rounded(), to int16: closer than bfloat16 is. Takes twice the multiplications, but reads weights once."""
        return self._computed(self.kernels.multiply_fine, inputs)

    def _computed(self, multiply: "ctypes._FuncPointer", inputs: torch.Tensor) -> torch.Tensor:
        if self.width != self.num_in:
            inputs = F.pad(inputs, (0, self.width - self.num_in))
        inputs = inputs.contiguous()
        output = inputs.new_empty(len(inputs), self.num_out)
        multiply(self.address, inputs.data_ptr(), len(inputs), output.data_ptr())
        return output

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """Rows `[start, stop)` of the matrix, [rows, in]; `start` is a multiple of PANEL."""
        output = torch.empty(stop - start, self.num_in, dtype=self.dtype)
        self.kernels.decode_all(self.address, start, stop - start, self.num_in, output.data_ptr())
        return output

    def by_conversion(self, inputs: torch.Tensor) -> torch.Tensor:
        """The product by torch, with some rows made dense at a time -> [T, out]."""
        step = max(PANEL, CHUNK_NUMBERS // self.num_in // PANEL * PANEL)
        parts = (self.dense(start, min(start + step, self.num_out)) for start in range(0, self.num_out, step))
        output = torch.cat([F.linear(inputs, part) for part in parts], dim=-1)
        return output if self.bias is None else output.add_(self.bias)


def halved_powers(exponents: torch.Tensor) -> torch.Tensor:
    """Scales of e8m0 for codes that are twice their numbers: powers of two, which bfloat16 holds."""
    return torch.exp2(exponents.float() - E8M0_BIAS - 1).bfloat16()
