"""Our products are those of the numbers that the weights stand for, in float64, for every form of weights."""

import re
from pathlib import Path

import pytest
import torch

from worker.kernels.gpu import weight_codes
from worker.kernels.gpu.products import ProductConfig, by_torch, configs_for, parts_for, product, scaled_when
from worker.kernels.packed.encodings import WEIGHTS, fp8_block_weights, fp8_weights, int4_weights, int8_weights
from worker.kernels.packed.grouped import grouped_weights
from worker.kernels.packed.weights import E2M1, Weights, base

DTYPES = (torch.bfloat16, torch.float16)
HALF_ULP = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # of a result, at most, when it is rounded
FORMS = ("dense", "int8", "fp8", "fp8_blocks", "int4", "int4 without offsets", "int4 groups of 32")
# kind, bits, group, what decodes a code besides the scale, type of the scales (None: the model's)
PACKED = (
    (4, 32, "minimums", torch.float16),  # Q4_1, Q4_K
    (4, 32, "", torch.float16),  # Q4_0
    (4, 128, "zeros", None),  # GPTQ, AWQ
    (4, 256, "zeros", torch.float32),
    (4, 16, "", None),
    (5, 32, "minimums", torch.float16),  # Q5_K
    (6, 16, "", torch.float16),  # Q6_K
    (8, 32, "", torch.float16),  # Q8_0
    (8, 128, "zeros", torch.float16),  # GPTQ
    (8, 64, "minimums", None),
    None,  # MXFP4
)
PackedForm = tuple[int, int, str, torch.dtype | None]
WIDTHS = ((40, 256), (37, 200))  # [out, in]: whole blocks of columns, and odd ones
MAX_DEVIATION = 2e-5
TILE = ProductConfig(16, 16, 64, 1, 4, 3)
VECTOR = ProductConfig(0, 8, 64, 1, 4, 3)


def weights_of(form: str, weight: torch.Tensor) -> Weights:
    if form == "int4 without offsets":
        return int4_weights(weight, 64, with_offsets=False)
    return int4_weights(weight, 32) if form == "int4 groups of 32" else WEIGHTS[form](weight)


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact_numbers(weights: Weights) -> torch.Tensor:
    """[out, in], float64: written out here, without a rounding."""
    codes, scales = weights.codes, weights.scales
    if scales is None:
        return codes.double()
    if weights.kind == "int8":
        return codes.double() * scales.double()[:, None]
    if weights.kind == "int4":
        lost = 8.0 if weights.offsets is None else weights.offsets.double().repeat_interleave(weights.group, 1)
        lost = lost - (0 if weights.offsets is None else 1024 if weights.dtype == torch.float16 else 128)
        nibbles = torch.cat([codes & 15, codes >> 4], dim=1).double() - lost
        return (nibbles * scales.double().repeat_interleave(weights.group, 1))[:, : weights.num_in]
    read = codes.view(torch.float8_e4m3fn).double()
    if weights.kind == "fp8":
        return read * scales.double()[:, None]
    wide = scales.double().repeat_interleave(128, 0).repeat_interleave(128, 1)
    return read * wide[: len(codes), : weights.num_in]


def packed_weights(form: PackedForm, shape: tuple[int, int], dtype: torch.dtype) -> Weights:
    """Random codes, scales of either sign, and zeros or minimums if the form has them."""
    bits, group, extra, scale_type = form
    generator = torch.Generator().manual_seed(bits * group)
    num_out, num_in = shape
    places = (num_out, -(-num_in // group))
    codes = torch.randint(0, 1 << bits, shape, generator=generator, dtype=torch.uint8)
    scales = torch.randn(places, generator=generator).to(scale_type or dtype)
    zeros = torch.randint(0, 1 << bits, places, generator=generator) if extra == "zeros" else None
    minimums = torch.randn(places, generator=generator).to(scale_type or dtype) if extra == "minimums" else None
    return grouped_weights(codes, scales, group, bits, dtype, zeros=zeros, minimums=minimums)


def mxfp4_weights(num_out: int, num_in: int, dtype: torch.dtype) -> Weights:
    generator = torch.Generator().manual_seed(5)
    half = -(-num_in // 64) * 32
    codes = torch.randint(0, 256, (num_out, half), generator=generator, dtype=torch.uint8)
    scales = torch.randint(118, 126, (num_out, half // 16), generator=generator, dtype=torch.uint8)
    return Weights("mxfp4", dtype, num_in, codes, scales, group=32)


def deviation(found: torch.Tensor, inputs: torch.Tensor, weights: Weights, bias: torch.Tensor | None) -> float:
    """The largest one, beyond the last rounding, of the largest result."""
    expected = inputs.double() @ exact_numbers(weights).t() + (0 if bias is None else bias.double())
    beyond = (found.double() - expected).abs() - expected.abs() * HALF_ULP[weights.dtype]
    return float(beyond.max() / expected.abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_out", "num_in"), WIDTHS)
@pytest.mark.parametrize("form", FORMS)
def test_a_product_is_exact_up_to_the_last_rounding(form: str, num_out: int, num_in: int, dtype: torch.dtype) -> None:
    weights = weights_of(form, numbers(num_out, num_in, dtype=dtype))
    bias = numbers(num_out, dtype=dtype, seed=1)
    block_k = weights.group or 64
    for num_rows, block_m, num_parts in ((1, 16, 1), (3, 16, 2), (16, 16, 1), (19, 32, 1), (19, 16, 1)):
        inputs = numbers(num_rows, num_in, dtype=dtype, seed=num_rows)
        config = ProductConfig(block_m, 16, block_k, num_parts, 4, 3)
        assert deviation(product(inputs, weights, bias, config), inputs, weights, bias) < MAX_DEVIATION, config
    assert deviation(product(inputs, weights, None, config), inputs, weights, None) < MAX_DEVIATION


def twin_deviation(weights: Weights, bias: torch.Tensor | None, num_rows: int, config: ProductConfig) -> float:
    """As deviation(), from the product with the weights made dense, in float64."""
    inputs = numbers(num_rows, weights.num_in, dtype=weights.dtype, seed=num_rows)
    twin = Weights("dense", weights.dtype, weights.num_in, weights.dense())
    return deviation(product(inputs, weights, bias, config), inputs, twin, bias)


@pytest.mark.parametrize(("dtype", "shape"), list(zip(DTYPES, WIDTHS, strict=True)), ids=str)
@pytest.mark.parametrize("form", PACKED, ids=str)
def test_a_checkpoint_s_packed_weights_give_the_product_of_their_dense_twin(
    form: PackedForm | None, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weights = mxfp4_weights(*shape, dtype) if form is None else packed_weights(form, shape, dtype)
    bias = numbers(shape[0], dtype=dtype, seed=1)
    for num_rows, num_parts, block_k in ((3, 1, 64), (2, 2, 128)):
        config = ProductConfig(16, 16, block_k, num_parts, 4, 3)
        is_twins = scaled_when(weights, config) == "inside"  # else the twin is what is rounded
        bound = MAX_DEVIATION if is_twins else 2 * HALF_ULP[dtype]
        assert twin_deviation(weights, bias, num_rows, config) < bound, config
    for num_rows in (1, 2):
        assert twin_deviation(weights, bias, num_rows, VECTOR) < 2 * HALF_ULP[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_out", "num_in"), WIDTHS)
@pytest.mark.parametrize("form", ["dense", "int8", "fp8"])
def test_one_or_two_rows_without_tensor_cores(form: str, num_out: int, num_in: int, dtype: torch.dtype) -> None:
    weights = weights_of(form, numbers(num_out, num_in, dtype=dtype))
    bias = numbers(num_out, dtype=dtype, seed=1)
    for num_rows in (1, 2):
        inputs = numbers(num_rows, num_in, dtype=dtype, seed=num_rows)
        assert deviation(product(inputs, weights, bias, VECTOR), inputs, weights, bias) < MAX_DEVIATION


@pytest.mark.parametrize("form", FORMS)
def test_torch_computes_the_same_from_weights_made_dense(form: str) -> None:
    weights, bias = weights_of(form, numbers(37, 200, dtype=torch.bfloat16)), numbers(37, dtype=torch.bfloat16, seed=1)
    inputs = numbers(19, 200, dtype=torch.bfloat16, seed=2)
    assert deviation(by_torch(inputs, weights, bias), inputs, weights, bias) < 8e-3  # these numbers are rounded


def test_columns_apart_in_memory_and_no_rows_at_all() -> None:
    weights = int8_weights(numbers(40, 128, dtype=torch.bfloat16))
    wide = numbers(3, 256, dtype=torch.bfloat16)
    assert torch.equal(product(wide[:, 128:], weights, None, TILE), product(wide[:, 128:].clone(), weights, None, TILE))
    assert torch.equal(product(wide[:, ::2], weights, None, TILE), product(wide[:, ::2].clone(), weights, None, TILE))
    assert tuple(product(wide[:0, :128], weights, None, TILE).shape) == (0, 40)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    weights, inputs = int4_weights(numbers(40, 256, dtype=torch.bfloat16), 64), numbers(16, 256, dtype=torch.bfloat16)
    assert torch.equal(product(inputs, weights, None, TILE)[:3], product(inputs[:3], weights, None, TILE))


def test_int4_fits_a_group_that_is_not_centred_more_tightly_with_offsets() -> None:
    weight = numbers(8, 128, dtype=torch.bfloat16).abs()
    errors = [
        float((exact_numbers(int4_weights(weight, 64, with_offsets=with_offsets)) - weight.double()).square().mean())
        for with_offsets in (True, False)
    ]
    assert errors[0] < errors[1] / 3


@pytest.mark.parametrize(
    "make", [int8_weights, fp8_weights, fp8_block_weights, lambda weight: int4_weights(weight, 32)]
)
def test_a_row_of_zeros_stays_zero(make: object) -> None:
    for dtype in DTYPES:
        weights = make(torch.zeros(3, 64, dtype=dtype))  # type: ignore[operator]
        assert not exact_numbers(weights).any() and not weights.dense().any()


def test_quantized_in_chunks_the_codes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = numbers(37, 128, dtype=torch.bfloat16)
    whole = [int4_weights(weight, 64).codes, int8_weights(weight).codes, fp8_weights(weight).codes]
    monkeypatch.setattr("worker.kernels.packed.encodings.CHUNK_BYTES", 4 * 128 * 5)
    parts = [int4_weights(weight, 64).codes, int8_weights(weight).codes, fp8_weights(weight).codes]
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


@pytest.mark.parametrize(("num_out", "num_in"), [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)])
def test_few_outputs_are_cut_into_parts_until_enough_bytes_are_on_their_way(num_out: int, num_in: int) -> None:
    """3.35 TB/s for 0.7 us are 18 KB for each of an H100's 132 multiprocessors."""
    for kind in WEIGHTS:
        weights = WEIGHTS[kind](torch.empty(num_out, num_in, dtype=torch.bfloat16, device="meta"))
        for config in configs_for(weights, 16, 132):
            programs = -(-num_out // config.block_n) * config.num_parts
            stage = config.block_n * config.block_k * weights.codes.element_size()
            assert programs >= 1.75 * 132, (kind, config)
            at_once = min(programs / 132, 4)  # whose stages fit its shared memory
            assert at_once * max(config.num_stages - 1, 2) * stage >= 24 * 1024, (kind, config)


@pytest.mark.parametrize("num_rows", [16, 32, 64])
@pytest.mark.parametrize(("num_out", "num_in"), [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)])
def test_where_codes_are_decoded_there_are_enough_warps_to_hide_each_other_s_waiting(
    num_out: int, num_in: int, num_rows: int
) -> None:
    for kind in ("int8", "int4", "fp8"):
        weights = WEIGHTS[kind](torch.empty(num_out, num_in, dtype=torch.bfloat16, device="meta"))
        for config in configs_for(weights, num_rows, 132):
            programs = -(-num_out // config.block_n) * config.num_parts
            turns = -(-weights.codes.shape[1] // config.block_k) // config.num_parts
            assert programs * config.num_warps >= 15 * 132 or config.num_parts == 8 or turns < 8, (kind, config)


def test_parts_keep_enough_turns_to_overlap_loads_and_products() -> None:
    assert parts_for(num_tiles=1, num_turns=4, num_programs=231) == 1
    assert parts_for(num_tiles=1, num_turns=1000, num_programs=231) == 8
    assert parts_for(num_tiles=1000, num_turns=1000, num_programs=231) == 1


ASSEMBLER = re.compile(r'"""\{(.*?)\}"""', re.DOTALL)


def test_the_assembler_of_a_gpu_decodes_every_byte_as_the_interpreter_does() -> None:
    """The interpreter has no PTX. Its few instructions are executed here, on all bytes."""
    blocks = ASSEMBLER.findall(Path(weight_codes.__file__).read_text())
    every = torch.arange(256)
    fp8 = every.to(torch.uint8).view(torch.float8_e4m3fn).float()
    fp8[0x7F], fp8[0xFF] = 480, -480  # nan there, which weights are not
    low, high = every & 15, every >> 4
    values = torch.tensor([*E2M1, *(-number for number in E2M1)])
    expected = [
        *(fp8.to(dtype) for dtype in DTYPES),
        *((base(dtype) + nibbles).to(dtype) for nibbles in (low, high) for dtype in reversed(DTYPES)),
        *((128 + nibbles).float() for nibbles in (low, high)),
        *(values[nibbles].bfloat16() for nibbles in (low, high)),
    ]
    assert len(blocks) == len(expected)
    for text, numbers_of_bytes in zip(blocks, expected, strict=True):
        for first in range(0, 256, 4):
            word = int.from_bytes(bytes(range(first, first + 4)), "little")
            found = torch.tensor(executed(text, word)).to(torch.uint32).view(numbers_of_bytes.dtype)
            torch.testing.assert_close(found, numbers_of_bytes[first : first + 4], atol=0, rtol=0)
            assert torch.equal(found.signbit(), numbers_of_bytes[first : first + 4].signbit())


def executed(text: str, word: int) -> list[int]:
    """The registers that a block of PTX makes of one."""
    num_out = text.count("$") - text.count(", $")  # those at the left
    registers = {f"${num_out}": word}
    for line in filter(None, (line.strip().rstrip(";") for line in text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == ".reg":
            continue
        target, *given = (operand.strip() for operand in rest.split(","))
        values = [registers[operand] if operand in registers else int(operand, 0) for operand in given]
        registers[target] = execute(name, *values)
    return [registers[f"${at}"] for at in range(num_out)]


def execute(name: str, *values: int) -> int:
    match name:
        case "mov.b32":
            return values[0]
        case "and.b32":
            return values[0] & values[1]
        case "shr.u32":
            return values[0] >> values[1]
        case "shl.b32":
            return values[0] << values[1] & 0xFFFFFFFF
        case "lop3.b32":
            assert values[3] == 0xEA  # (a & b) | c
            return values[0] & values[1] | values[2]
        case "prmt.b32":
            taken = (values[0] | values[1] << 32).to_bytes(8, "little")
            return int.from_bytes(bytes(taken[values[2] >> 4 * at & 7] for at in range(4)), "little")
        case "fma.rn.bf16x2" | "fma.rn.f16x2":
            dtype = torch.bfloat16 if "bf16" in name else torch.float16
            one, factor, more = (
                torch.tensor([value & 0xFFFF, value >> 16]).to(torch.uint16).view(dtype).double() for value in values
            )
            low, high = (one * factor + more).to(dtype).view(torch.uint16).tolist()
            return int(low | high << 16)
    raise AssertionError(name)
