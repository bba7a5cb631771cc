"""GGUF's blocks against the gguf package, which is written by the format's authors."""

import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from tests.gguf_files import random_blocks
from worker.models.gguf.blocks import BLOCK_TYPES


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_random_blocks_stand_for_the_numbers_that_the_gguf_package_reads(name: str) -> None:
    block, shape = BLOCK_TYPES[name], (6, 512)
    blocks = random_blocks(name, 6 * 512 // BLOCK_TYPES[name].columns)
    expected = torch.from_numpy(dequantize(blocks.reshape(6, -1), GGMLQuantizationType[name]))
    found = block.codes(torch.from_numpy(blocks.reshape(-1)), shape)
    assert found.codes.shape == shape
    assert found.codes.dtype == torch.uint8
    assert int(found.codes.max()) < 1 << found.bits
    assert torch.equal(found.dense(), expected)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_sizes_are_those_of_the_gguf_package(name: str) -> None:
    assert (BLOCK_TYPES[name].columns, BLOCK_TYPES[name].num_bytes) == GGML_QUANT_SIZES[GGMLQuantizationType[name]]


def test_a_tensor_of_experts_keeps_its_leading_dimension() -> None:
    block = BLOCK_TYPES["Q4_K"]
    blocks = torch.from_numpy(random_blocks("Q4_K", 3 * 4 * 2)).flatten()
    stacked, flat = block.codes(blocks, (3, 4, 512)), block.codes(blocks, (12, 512))
    assert torch.equal(stacked.codes.view(12, 512), flat.codes)
    assert torch.equal(stacked.dense().view(12, 512), flat.dense())
