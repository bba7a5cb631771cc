"""Matrix products with weights [N, K] in Triton: a tile kernel for any number of rows, a vector kernel for one or two.

Both read the weights once, along K, 16 bytes a thread. Few columns (N = 4096) make too few programs to fill a GPU;
then the tile kernel cuts K into parts, and a second kernel adds their sums in order: the same numbers in every run.
"""

import triton
import triton.language as tl

from worker.kernels.gpu.runtime import dot
from worker.kernels.gpu.weight_codes import decode, high_nibbles, low_nibbles


@triton.jit(do_not_specialize=["M"])  # or M = 1 and M = 16 would be compiled apart
def tile_product_kernel(
    inputs,  # [M, K]
    weights,  # [N, K]
    scales,  # float32: of int8 and fp8 [N], of fp8_blocks [N / SCALE_BLOCK, K / SCALE_BLOCK]; None if dense
    bias,  # [N] or None
    output,  # [M, N]; or [parts, M, N], float32, before scales of rows and bias
    M,
    N,
    K,
    PART,  # columns that one program multiplies, a multiple of BLOCK_K
    input_stride,
    KIND: tl.constexpr,
    SCALE_BLOCK: tl.constexpr,
    IS_PART: tl.constexpr,
    IS_EVEN: tl.constexpr,  # K is a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IN_FLOAT32: tl.constexpr,
):
    """The tile is computed as [BLOCK_N, BLOCK_M]: weights then are the tensor core's left operand, in registers."""
    n, m = tile_places(M, BLOCK_M, BLOCK_N)
    part = tl.program_id(1)
    k = tl.arange(0, BLOCK_K)
    known_n = tl.minimum(n, N - 1)  # rows beyond the last are read as the last, and not stored
    weight_rows = weights + known_n.to(tl.int64)[:, None] * K + k[None, :]
    input_rows = inputs + m.to(tl.int64)[None, :] * input_stride + k[:, None]
    in_m = (m < M)[None, :]
    dtype: tl.constexpr = inputs.dtype.element_ty
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(part * PART, tl.minimum((part + 1) * PART, K), BLOCK_K):
        if IS_EVEN:
            codes = tl.load(weight_rows + start)
            rows = tl.load(input_rows + start, mask=in_m, other=0.0)
        else:
            in_k = start + k < K
            codes = tl.load(weight_rows + start, mask=in_k[None, :], other=0)
            rows = tl.load(input_rows + start, mask=in_m & in_k[:, None], other=0.0)
        numbers = decode(codes, KIND, dtype, IN_FLOAT32)
        if KIND == "fp8_blocks":
            at = (known_n // SCALE_BLOCK) * tl.cdiv(K, SCALE_BLOCK) + start // SCALE_BLOCK
            zeros = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
            sums += dot(numbers, rows, zeros, IN_FLOAT32) * tl.load(scales + at)[:, None]
        else:
            sums = dot(numbers, rows, sums, IN_FLOAT32)
    if not IS_PART and (KIND == "int8" or KIND == "fp8"):
        sums *= tl.load(scales + known_n)[:, None]
    store_tile(sums, output, None if IS_PART else bias, n, m, M, N)


@triton.jit(do_not_specialize=["M"])
def int4_tile_product_kernel(
    inputs,  # [M, num_inputs]
    weights,  # [N, K], bytes: the nibbles of byte k are weights k and k + K
    scales,  # [N, 2 K / BLOCK_K], 16 bits: the columns of a group share one
    offsets,  # the same: what a weight of zero decodes to; None: OFFSET
    bias,  # [N] or None
    output,  # [M, N]; or [parts, M, N], float32, before the bias
    M,
    N,
    K,  # a multiple of BLOCK_K; at least half of num_inputs
    num_inputs,
    PART,  # columns of `weights` that one program multiplies, a multiple of BLOCK_K
    input_stride,
    OFFSET: tl.constexpr,
    IS_PART: tl.constexpr,
    IS_EVEN: tl.constexpr,  # num_inputs is 2 K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,  # columns of a group
    IN_FLOAT32: tl.constexpr,
):
    """As tile_product_kernel: a turn takes two groups, one of lower and one of upper nibbles."""
    n, m = tile_places(M, BLOCK_M, BLOCK_N)
    part = tl.program_id(1)
    k = tl.arange(0, BLOCK_K)
    known_n = tl.minimum(n, N - 1)
    weight_rows = weights + known_n.to(tl.int64)[:, None] * K + k[None, :]
    input_rows = inputs + m.to(tl.int64)[None, :] * input_stride + k[:, None]
    in_m = (m < M)[None, :]
    dtype: tl.constexpr = inputs.dtype.element_ty
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(part * PART, tl.minimum((part + 1) * PART, K), BLOCK_K):
        codes = tl.load(weight_rows + start)
        if IS_EVEN:
            rows = tl.load(input_rows + start, mask=in_m, other=0.0)
            more_rows = tl.load(input_rows + (K + start), mask=in_m, other=0.0)
        else:
            rows = tl.load(input_rows + start, mask=in_m & (start + k < num_inputs)[:, None], other=0.0)
            more_rows = tl.load(input_rows + (K + start), mask=in_m & (K + start + k < num_inputs)[:, None], other=0.0)
        at = known_n * (2 * K // BLOCK_K) + start // BLOCK_K  # near the last turn's: in the L1 cache
        more_at = at + K // BLOCK_K
        zeros = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        low = without(low_nibbles(codes, dtype, IN_FLOAT32), offsets, at, OFFSET, IN_FLOAT32).to(dtype)
        sums += dot(low, rows, zeros, IN_FLOAT32) * tl.load(scales + at).to(tl.float32)[:, None]
        high = without(high_nibbles(codes, dtype, IN_FLOAT32), offsets, more_at, OFFSET, IN_FLOAT32).to(dtype)
        sums += dot(high, more_rows, zeros, IN_FLOAT32) * tl.load(scales + more_at).to(tl.float32)[:, None]
    store_tile(sums, output, None if IS_PART else bias, n, m, M, N)


@triton.jit
def without(numbers, offsets, at, OFFSET: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """`numbers` [rows, columns] less their row's offset: differences of small integers, exact."""
    if IN_FLOAT32:  # the interpreter does not subtract bf16
        numbers = numbers.to(tl.float32)
    if offsets is None:
        difference = numbers - OFFSET
    else:
        difference = numbers - tl.load(offsets + at).to(numbers.dtype)[:, None]
    return difference


@triton.jit
def tile_places(M, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The outputs and the rows of this program's tile; tiles of the same outputs follow each other."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile_n, tile_m = tl.program_id(0) // tiles_m, tl.program_id(0) % tiles_m
    return tile_n * BLOCK_N + tl.arange(0, BLOCK_N), tile_m * BLOCK_M + tl.arange(0, BLOCK_M)


@triton.jit
def store_tile(sums, output, bias, n, m, M, N):
    """[BLOCK_N, BLOCK_M] into `output` [parts, M, N], turned."""
    if bias is not None:
        sums += tl.load(bias + tl.minimum(n, N - 1)).to(tl.float32)[:, None]
    places = output + (tl.program_id(1) * M + m[None, :]).to(tl.int64) * N + n[:, None]
    tl.store(places, sums.to(output.dtype.element_ty), mask=(m < M)[None, :] & (n < N)[:, None])


@triton.jit(do_not_specialize=["M"])
def sum_of_parts_kernel(
    parts,  # [NUM_PARTS, M, N], float32
    scales,  # [N], float32, or None
    bias,  # [N] or None
    output,  # [M, N]
    M,
    N,
    NUM_PARTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The sum over parts, in their order, times the scales, plus the bias."""
    row = tl.program_id(1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < N
    sums = tl.zeros([BLOCK_N], tl.float32)
    for part in tl.static_range(NUM_PARTS):
        sums += tl.load(parts + (part * M + row).to(tl.int64) * N + n, mask=in_n, other=0.0)
    if scales is not None:
        sums *= tl.load(scales + n, mask=in_n, other=0.0)
    if bias is not None:
        sums += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)
    tl.store(output + row.to(tl.int64) * N + n, sums.to(output.dtype.element_ty), mask=in_n)


@triton.jit
def vector_product_kernel(
    inputs,  # [NUM_ROWS, K]
    weights,  # [N, K], not int4
    scales,  # float32 [N], or None
    bias,  # [N] or None
    output,  # [NUM_ROWS, N]
    N,
    K,
    input_stride,
    KIND: tl.constexpr,
    NUM_ROWS: tl.constexpr,  # 1 or 2
    IS_EVEN: tl.constexpr,  # K is a multiple of BLOCK_K
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IN_FLOAT32: tl.constexpr,
):
    """Without tensor cores: each thread adds up its own columns, and the columns are added at the end."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    known_n = tl.minimum(n, N - 1)
    weight_rows = weights + known_n.to(tl.int64)[:, None] * K + k[None, :]
    dtype: tl.constexpr = inputs.dtype.element_ty
    sums = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    second_sums = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in range(0, K, BLOCK_K):
        if IS_EVEN:
            codes = tl.load(weight_rows + start, eviction_policy="evict_first")
        else:
            in_k = start + k < K
            codes = tl.load(weight_rows + start, mask=in_k[None, :], other=0, eviction_policy="evict_first")
        numbers = decode(codes, KIND, dtype, IN_FLOAT32).to(tl.float32)
        for row in tl.static_range(NUM_ROWS):
            if IS_EVEN:
                values = tl.load(inputs + row * input_stride + start + k)
            else:
                values = tl.load(inputs + row * input_stride + start + k, mask=start + k < K, other=0.0)
            if row == 0:
                sums += numbers * values.to(tl.float32)[None, :]
            else:
                second_sums += numbers * values.to(tl.float32)[None, :]
    for row in tl.static_range(NUM_ROWS):
        totals = tl.sum(sums if row == 0 else second_sums, axis=1)
        if scales is not None:
            totals *= tl.load(scales + known_n)
        if bias is not None:
            totals += tl.load(bias + known_n).to(tl.float32)
        tl.store(output + row * N + n, totals.to(output.dtype.element_ty), mask=n < N)
