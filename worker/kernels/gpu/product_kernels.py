"""Matrix products with weights [N, K] in Triton: a tile kernel for any number of rows, a vector kernel for one or two.

Both read the weights once, along K, 16 bytes a thread. Few columns (N = 4096) make too few programs to fill a GPU;
then the tile kernel cuts K into parts, and a second kernel adds their sums in order: the same numbers in every run.
"""

import triton
import triton.language as tl

from worker.kernels.gpu.runtime import begin, dot
from worker.kernels.gpu.weight_codes import decode, e2m1, in_float32

# Arguments of the kernels:
# inputs [M, num_inputs]; of experts [M / TOP_K, num_inputs]
# weights [N, K]; nibbles are bytes, those of byte k weights k and k + K; of experts [experts, N, K], and so the others
# scales of rows [N], of groups [N, groups], of fp8_blocks [N / 128, K / 128]; None if dense
# offsets, minimums [N, groups], see Weights; None if there are none. BASE: what is in the offsets besides
# bias [N] or None
# block_experts [tiles_m]: the expert of each block of rows, -1 for none; None: there are no experts
# slots [tiles_m * BLOCK_M]: the rows of each block; M for none
# output [M, N]; or [parts, M, N], float32, before scales of rows and bias
# PART: columns of `weights` that one program multiplies, a multiple of BLOCK_K
# SCALED: "rows": at the end; "after" the product of each turn; "inside": before it; "" if dense
# GROUP: columns that share a scale
# TOP_K: rows of output that read the same row of inputs
# IS_EVEN: no turn reaches beyond the columns of `weights` or inputs


@triton.jit(do_not_specialize=["M", "tiles_m"])  # or M = 1 and M = 16 would be compiled apart
def tile_product_kernel(
    inputs, weights, scales, offsets, minimums, bias, block_experts, slots, output,
    M, N, K, num_inputs, tiles_m, PART, input_stride,
    KIND: tl.constexpr, SCALED: tl.constexpr, GROUP: tl.constexpr, BASE: tl.constexpr, TOP_K: tl.constexpr,
    IS_PART: tl.constexpr, IS_EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """The tile is computed as [BLOCK_N, BLOCK_M]: weights then are the tensor core's left operand, in registers."""
    tile_n, tile_m = tl.program_id(0) // tiles_m, tl.program_id(0) % tiles_m  # tiles of equal outputs in a row
    n, m = tile_n * BLOCK_N + tl.arange(0, BLOCK_N), tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    known_n = tl.minimum(n, N - 1)  # rows beyond the last are read as the last, and not stored
    expert = 0
    if block_experts is not None:
        expert = tl.load(block_experts + tile_m).to(tl.int64)
        if expert < 0:
            return
        m = tl.load(slots + m)
    in_m = (m < M)[None, :]
    row_n = expert * N + known_n.to(tl.int64)
    HALVES: tl.constexpr = 2 if KIND == "int4" or KIND == "mxfp4" else 1
    groups = tl.cdiv(HALVES * K, GROUP)
    if KIND == "fp8_blocks":
        scale_rows = (expert * tl.cdiv(N, GROUP) + known_n // GROUP) * groups
    else:
        scale_rows = row_n * groups
    weight_rows = weights + row_n[:, None] * K + k[None, :]
    input_rows = inputs + (m // TOP_K).to(tl.int64)[None, :] * input_stride + k[:, None]
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(tl.program_id(1) * PART, tl.minimum((tl.program_id(1) + 1) * PART, K), BLOCK_K):
        if IS_EVEN:
            codes = tl.load(weight_rows + start)
        else:
            codes = tl.load(weight_rows + start, mask=(start + k < K)[None, :], other=0)
        for half in tl.static_range(HALVES):
            first = half * K + start
            if IS_EVEN:
                rows = tl.load(input_rows + first, mask=in_m, other=0.0)
            else:
                in_k = (start + k < K) & (first + k < num_inputs)
                rows = tl.load(input_rows + first, mask=in_m & in_k[:, None], other=0.0)
            sums = with_columns(
                sums, codes, rows, scales, offsets, minimums, scale_rows, first, groups,
                half, KIND, SCALED, GROUP, BASE, IN_FLOAT32,
            )  # fmt: skip
    if SCALED == "rows" and not IS_PART:
        sums *= tl.load(scales + row_n).to(tl.float32)[:, None]
    if bias is not None:
        sums += tl.load(bias + row_n).to(tl.float32)[:, None]
    places = output + (tl.program_id(1) * M + m[None, :]).to(tl.int64) * N + n[:, None]
    tl.store(places, sums.to(output.dtype.element_ty), mask=in_m & (n < N)[:, None])


@triton.jit
def with_columns(
    sums, codes, rows, scales, offsets, minimums, scale_rows, first, groups,
    HALF: tl.constexpr, KIND: tl.constexpr, SCALED: tl.constexpr, GROUP: tl.constexpr, BASE: tl.constexpr,
    IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """`sums` [BLOCK_N, BLOCK_M] plus the product of the columns from `first` on."""
    if SCALED == "inside":
        at = group_places(scale_rows, first, groups, GROUP, codes.shape[1])
        numbers = scaled(codes, scales, offsets, minimums, at, HALF, KIND, rows.dtype, BASE, IN_FLOAT32)
        sums = dot(numbers, rows, sums, IN_FLOAT32)
    elif SCALED == "after":
        at = scale_rows + first // GROUP  # near the last turn's: in the L1 cache
        numbers = decode(codes, HALF, KIND, rows.dtype, IN_FLOAT32)
        if KIND == "int4":
            numbers = without(numbers, offsets, at, BASE, IN_FLOAT32).to(rows.dtype)
        zeros = tl.zeros(sums.shape, tl.float32)
        sums += dot(numbers, rows, zeros, IN_FLOAT32) * tl.load(scales + at).to(tl.float32)[:, None]
    else:
        sums = dot(decode(codes, HALF, KIND, rows.dtype, IN_FLOAT32), rows, sums, IN_FLOAT32)
    return sums


@triton.jit
def group_places(scale_rows, first, groups, GROUP: tl.constexpr, BLOCK_K: tl.constexpr):
    """Where the scales of BLOCK_K columns from `first` on are, [rows, groups of the columns]."""
    NUM: tl.constexpr = (BLOCK_K + GROUP - 1) // GROUP
    group = first // GROUP + tl.arange(0, NUM)  # those beyond the last are multiplied by zero, and must be numbers
    return scale_rows[:, None] + tl.minimum(group, groups - 1)[None, :]


@triton.jit
def scaled(
    codes, scales, offsets, minimums, at,
    HALF: tl.constexpr, KIND: tl.constexpr, DTYPE: tl.constexpr, BASE: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """The numbers that codes [rows, columns] stand for, computed in float32 and rounded once to DTYPE."""
    if KIND == "mxfp4" and DTYPE == tl.bfloat16 and not IN_FLOAT32:
        numbers = e2m1(codes, HALF, IN_FLOAT32)
        result = numbers * spread(e8m0(scales, at).to(tl.bfloat16), numbers)  # exact
    else:
        numbers, scale, least = decoded(codes, scales, offsets, minimums, at, HALF, KIND, BASE, IN_FLOAT32)
        result = (numbers * spread(scale, numbers) + spread(least, numbers)).to(DTYPE)
    return result


@triton.jit
def decoded(
    codes, scales, offsets, minimums, at,
    HALF: tl.constexpr, KIND: tl.constexpr, BASE: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """Codes [rows, columns], and what they are multiplied by and what is added then, [rows, groups]; float32.

    `at`: where the scales of the groups are, [rows, groups].
    """
    if KIND == "mxfp4":
        numbers = e2m1(codes, HALF, IN_FLOAT32).to(tl.float32)
        scale = e8m0(scales, at)
    else:
        numbers, more = in_float32(codes, HALF, KIND, IN_FLOAT32)
        scale = tl.load(scales + at).to(tl.float32)
    if minimums is not None:
        least = tl.load(minimums + at).to(tl.float32) - more * scale
    elif offsets is not None:
        least = (BASE - more - tl.load(offsets + at).to(tl.float32)) * scale
    elif KIND == "int4":
        least = (-8 - more) * scale
    else:
        least = tl.zeros(scale.shape, tl.float32)
    return numbers, scale, least


@triton.jit
def e8m0(scales, at):
    """Powers of two whose exponents are bytes."""
    return (tl.load(scales + at).to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
def spread(of_groups, numbers):
    """[rows, groups] -> [rows, columns] as `numbers` are."""
    COLUMNS: tl.constexpr = numbers.shape[1] // of_groups.shape[1]
    wide = tl.broadcast_to(of_groups[:, :, None], [of_groups.shape[0], of_groups.shape[1], COLUMNS])
    return tl.reshape(wide, [numbers.shape[0], numbers.shape[1]])


@triton.jit
def without(numbers, offsets, at, BASE: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """`numbers` [rows, columns] less their row's offset: differences of small integers, exact."""
    if IN_FLOAT32:  # the interpreter does not subtract bf16
        numbers = numbers.to(tl.float32)
    if offsets is None:
        difference = numbers - (BASE + 8.0)
    else:
        difference = numbers - tl.load(offsets + at).to(numbers.dtype)[:, None]
    return difference


@triton.jit(do_not_specialize=["M"])
def sum_of_parts_kernel(
    parts,  # [NUM_PARTS, M, N], float32
    scales,  # [N] or None
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
        sums *= tl.load(scales + n, mask=in_n, other=0.0).to(tl.float32)
    if bias is not None:
        sums += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)
    tl.store(output + row.to(tl.int64) * N + n, sums.to(output.dtype.element_ty), mask=in_n)


@triton.jit
def vector_product_kernel(
    inputs, weights, scales, offsets, minimums, bias, output, N, K, num_inputs, input_stride,
    KIND: tl.constexpr, SCALED: tl.constexpr, GROUP: tl.constexpr, BASE: tl.constexpr,
    NUM_ROWS: tl.constexpr, IS_EVEN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    COLUMNS: tl.constexpr, IN_FLOAT32: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """One or two rows without tensor cores: each thread adds up its own columns, and these are added at the end.

    Of groups, it multiplies its sum of COLUMNS by their scale: exact, unlike in the tile kernel.
    """
    begin(OVERLAPS)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    known_n = tl.minimum(n, N - 1)
    weight_rows = weights + known_n.to(tl.int64)[:, None] * K + k[None, :]
    HALVES: tl.constexpr = 2 if KIND == "int4" or KIND == "mxfp4" else 1
    groups = tl.cdiv(HALVES * K, GROUP)
    sums = tl.zeros([BLOCK_N, BLOCK_K // COLUMNS], tl.float32)
    second_sums = tl.zeros([BLOCK_N, BLOCK_K // COLUMNS], tl.float32)
    for start in range(0, K, BLOCK_K):
        if IS_EVEN:
            codes = tl.load(weight_rows + start, eviction_policy="evict_first")
        else:
            in_weights = (start + k < K)[None, :]
            codes = tl.load(weight_rows + start, mask=in_weights, other=0, eviction_policy="evict_first")
        for half in tl.static_range(HALVES):
            first = half * K + start
            if SCALED == "inside":
                group = tl.minimum((first + COLUMNS * tl.arange(0, BLOCK_K // COLUMNS)) // GROUP, groups - 1)
                at = (known_n.to(tl.int64) * groups)[:, None] + group[None, :]
                numbers, scale, least = decoded(codes, scales, offsets, minimums, at, half, KIND, BASE, IN_FLOAT32)
            else:
                numbers = decode(codes, half, KIND, inputs.dtype.element_ty, IN_FLOAT32).to(tl.float32)
            for row in tl.static_range(NUM_ROWS):
                places = inputs + row * input_stride + first + k
                if IS_EVEN:
                    values = tl.load(places).to(tl.float32)
                else:
                    values = tl.load(places, mask=(start + k < K) & (first + k < num_inputs), other=0.0).to(tl.float32)
                products = numbers * values[None, :]
                if SCALED == "inside":
                    products = by_thread(products, COLUMNS) * scale
                    if minimums is not None or KIND == "int4":
                        products += least * by_thread(values[None, :], COLUMNS)
                if row == 0:
                    sums += products
                else:
                    second_sums += products
    for row in tl.static_range(NUM_ROWS):
        totals = tl.sum(sums if row == 0 else second_sums, axis=1)
        if SCALED == "rows":
            totals *= tl.load(scales + known_n).to(tl.float32)
        if bias is not None:
            totals += tl.load(bias + known_n).to(tl.float32)
        tl.store(output + row * N + n, totals.to(output.dtype.element_ty), mask=n < N)


@triton.jit
def by_thread(numbers, COLUMNS: tl.constexpr):
    """The sums of so many neighbouring columns."""
    parts = tl.reshape(numbers, [numbers.shape[0], numbers.shape[1] // COLUMNS, COLUMNS])
    return tl.sum(parts, axis=2)
