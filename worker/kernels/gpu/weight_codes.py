"""Weights as numbers: what the codes of int8, int4, fp8 and mxfp4 weights stand for, decoded in registers.

They are decoded two or four at a time in PTX, on any GPU since compute capability 8.0; the interpreter, which has no
PTX, computes the same from the same bits. A byte of nibbles holds two codes, of which HALF 0 are the lower four bits.
"""

import triton
import triton.language as tl


@triton.jit
def decode(codes, HALF: tl.constexpr, KIND: tl.constexpr, DTYPE: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """Numbers of type DTYPE, for kinds whose codes have one. To those of int4, 128 (bf16) or 1024 (fp16) is added.

    Dense weights are none other; those of fp8 (e4m3) come as bytes.
    """
    if KIND == "int4":
        if HALF == 0:
            numbers = low_nibbles(codes, DTYPE, IN_FLOAT32)
        else:
            numbers = high_nibbles(codes, DTYPE, IN_FLOAT32)
    elif KIND == "fp8" or KIND == "fp8_blocks":
        if IN_FLOAT32:
            numbers = fp8_from_bits(codes).to(DTYPE)
        elif DTYPE == tl.float16:
            numbers = fp8_to_fp16(codes)
        else:
            numbers = fp8_to_bf16(codes)
    elif IN_FLOAT32:
        numbers = codes.to(tl.float32).to(DTYPE)  # the interpreter has no cast from int8 to bf16
    else:
        numbers = codes.to(DTYPE)
    return numbers


@triton.jit
def fp8_from_bits(codes):
    """e4m3's bits at their places in a float32, times 2^120: the biases are 7 and 127."""
    bits = ((codes.to(tl.int32) & 0x80) << 24) | ((codes.to(tl.int32) & 0x7F) << 20)
    return bits.to(tl.float32, bitcast=True) * 1.329227995784916e36


@triton.jit
def fp8_to_bf16(codes):
    """Four bytes to four bf16: sign and magnitude moved to their places, times 2^120. Exact, subnormals too."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 x<2>, y<2>, factor, zero;
        mov.b32 factor, 0x7B807B80;
        mov.b32 zero, 0x80008000;
        prmt.b32 x0, $2, 0, 0x1404;
        prmt.b32 x1, $2, 0, 0x3424;
        shr.u32 y0, x0, 4;
        shr.u32 y1, x1, 4;
        and.b32 y0, y0, 0x07F007F0;
        and.b32 y1, y1, 0x07F007F0;
        lop3.b32 y0, x0, 0x80008000, y0, 0xEA;
        lop3.b32 y1, x1, 0x80008000, y1, 0xEA;
        fma.rn.bf16x2 $0, y0, factor, zero;
        fma.rn.bf16x2 $1, y1, factor, zero;
        }""",
        "=r,=r,r",
        [codes],
        dtype=tl.bfloat16,
        is_pure=True,
        pack=4,
    )


@triton.jit
def fp8_to_fp16(codes):
    """Four bytes to four fp16, times 2^8 (the biases are 7 and 15)."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 x<2>, y<2>, factor, zero;
        mov.b32 factor, 0x5C005C00;
        mov.b32 zero, 0x80008000;
        prmt.b32 x0, $2, 0, 0x1404;
        prmt.b32 x1, $2, 0, 0x3424;
        shr.u32 y0, x0, 1;
        shr.u32 y1, x1, 1;
        and.b32 y0, y0, 0x3F803F80;
        and.b32 y1, y1, 0x3F803F80;
        lop3.b32 y0, x0, 0x80008000, y0, 0xEA;
        lop3.b32 y1, x1, 0x80008000, y1, 0xEA;
        fma.rn.f16x2 $0, y0, factor, zero;
        fma.rn.f16x2 $1, y1, factor, zero;
        }""",
        "=r,=r,r",
        [codes],
        dtype=tl.float16,
        is_pure=True,
        pack=4,
    )


@triton.jit
def low_nibbles(packed, DTYPE: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """128 (bf16) or 1024 (fp16) plus the lower four bits of each byte: the bits are the last ones of its fraction."""
    if IN_FLOAT32:
        numbers = ((packed & 15).to(tl.float32) + (1024 if DTYPE == tl.float16 else 128)).to(DTYPE)
    elif DTYPE == tl.float16:
        numbers = tl.inline_asm_elementwise(
            """{
            .reg .b32 x<2>;
            prmt.b32 x0, $2, 0, 0x4140;
            prmt.b32 x1, $2, 0, 0x4342;
            lop3.b32 $0, x0, 0x000F000F, 0x64006400, 0xEA;
            lop3.b32 $1, x1, 0x000F000F, 0x64006400, 0xEA;
            }""",
            "=r,=r,r",
            [packed],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )
    else:
        numbers = tl.inline_asm_elementwise(
            """{
            .reg .b32 x<2>;
            prmt.b32 x0, $2, 0, 0x4140;
            prmt.b32 x1, $2, 0, 0x4342;
            lop3.b32 $0, x0, 0x000F000F, 0x43004300, 0xEA;
            lop3.b32 $1, x1, 0x000F000F, 0x43004300, 0xEA;
            }""",
            "=r,=r,r",
            [packed],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=4,
        )
    return numbers


@triton.jit
def high_nibbles(packed, DTYPE: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """As low_nibbles(), of the upper four bits."""
    if IN_FLOAT32:
        numbers = low_nibbles(packed >> 4, DTYPE, IN_FLOAT32)
    elif DTYPE == tl.float16:
        numbers = tl.inline_asm_elementwise(
            """{
            .reg .b32 x<3>;
            shr.u32 x2, $2, 4;
            prmt.b32 x0, x2, 0, 0x4140;
            prmt.b32 x1, x2, 0, 0x4342;
            lop3.b32 $0, x0, 0x000F000F, 0x64006400, 0xEA;
            lop3.b32 $1, x1, 0x000F000F, 0x64006400, 0xEA;
            }""",
            "=r,=r,r",
            [packed],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )
    else:
        numbers = tl.inline_asm_elementwise(
            """{
            .reg .b32 x<3>;
            shr.u32 x2, $2, 4;
            prmt.b32 x0, x2, 0, 0x4140;
            prmt.b32 x1, x2, 0, 0x4342;
            lop3.b32 $0, x0, 0x000F000F, 0x43004300, 0xEA;
            lop3.b32 $1, x1, 0x000F000F, 0x43004300, 0xEA;
            }""",
            "=r,=r,r",
            [packed],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=4,
        )
    return numbers


@triton.jit
def in_float32(codes, HALF: tl.constexpr, KIND: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """Codes of int4 or int8 as float32, and the number that is added to them: nibbles become the last bits of one."""
    more: tl.constexpr = 128.0 if KIND == "int4" else 0.0
    if KIND == "int8":
        numbers = codes.to(tl.float32)
    elif IN_FLOAT32:
        numbers = nibbles(codes, HALF).to(tl.float32) + more
    elif HALF == 0:
        numbers = low_nibbles_to_float32(codes)
    else:
        numbers = high_nibbles_to_float32(codes)
    return numbers, more


@triton.jit
def nibbles(packed, HALF: tl.constexpr):
    return (packed >> (4 * HALF)) & 15


@triton.jit
def low_nibbles_to_float32(packed):
    """128 + code: bits 16 to 19 of a float32 of this size count by one."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 x;
        and.b32 x, $4, 0x0F0F0F0F;
        prmt.b32 $0, x, 0x43000000, 0x7044;
        prmt.b32 $1, x, 0x43000000, 0x7144;
        prmt.b32 $2, x, 0x43000000, 0x7244;
        prmt.b32 $3, x, 0x43000000, 0x7344;
        }""",
        "=r,=r,=r,=r,r",
        [packed],
        dtype=tl.float32,
        is_pure=True,
        pack=4,
    )


@triton.jit
def high_nibbles_to_float32(packed):
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 x;
        shr.u32 x, $4, 4;
        and.b32 x, x, 0x0F0F0F0F;
        prmt.b32 $0, x, 0x43000000, 0x7044;
        prmt.b32 $1, x, 0x43000000, 0x7144;
        prmt.b32 $2, x, 0x43000000, 0x7244;
        prmt.b32 $3, x, 0x43000000, 0x7344;
        }""",
        "=r,=r,=r,=r,r",
        [packed],
        dtype=tl.float32,
        is_pure=True,
        pack=4,
    )


@triton.jit
def e2m1(packed, HALF: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """Numbers 0 to 6 in bf16; float32 for the interpreter."""
    if IN_FLOAT32:
        bits = nibbles(packed, HALF).to(tl.int32)
        numbers = (((bits & 8) << 28) | ((bits & 7) << 22)).to(tl.float32, bitcast=True) * 8.507059173023462e37
    elif HALF == 0:
        numbers = low_e2m1(packed)
    else:
        numbers = high_e2m1(packed)
    return numbers


@triton.jit
def low_e2m1(packed):
    """Sign and magnitude moved to their places, times 2^126: the biases are 1 and 127."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 x<2>, y<2>, factor, zero;
        mov.b32 factor, 0x7E807E80;
        mov.b32 zero, 0x80008000;
        prmt.b32 x0, $2, 0, 0x1404;
        prmt.b32 x1, $2, 0, 0x3424;
        shr.u32 y0, x0, 2;
        shr.u32 y1, x1, 2;
        shl.b32 x0, x0, 4;
        shl.b32 x1, x1, 4;
        and.b32 y0, y0, 0x01C001C0;
        and.b32 y1, y1, 0x01C001C0;
        lop3.b32 y0, x0, 0x80008000, y0, 0xEA;
        lop3.b32 y1, x1, 0x80008000, y1, 0xEA;
        fma.rn.bf16x2 $0, y0, factor, zero;
        fma.rn.bf16x2 $1, y1, factor, zero;
        }""",
        "=r,=r,r",
        [packed],
        dtype=tl.bfloat16,
        is_pure=True,
        pack=4,
    )


@triton.jit
def high_e2m1(packed):
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 x<2>, y<2>, factor, zero;
        mov.b32 factor, 0x7E807E80;
        mov.b32 zero, 0x80008000;
        prmt.b32 x0, $2, 0, 0x1404;
        prmt.b32 x1, $2, 0, 0x3424;
        shr.u32 y0, x0, 6;
        shr.u32 y1, x1, 6;
        and.b32 y0, y0, 0x01C001C0;
        and.b32 y1, y1, 0x01C001C0;
        lop3.b32 y0, x0, 0x80008000, y0, 0xEA;
        lop3.b32 y1, x1, 0x80008000, y1, 0xEA;
        fma.rn.bf16x2 $0, y0, factor, zero;
        fma.rn.bf16x2 $1, y1, factor, zero;
        }""",
        "=r,=r,r",
        [packed],
        dtype=tl.bfloat16,
        is_pure=True,
        pack=4,
    )
