"""The C kernels over latents compute what float64 does: by tiles, and where tiles share the keys of a sequence."""

import numpy as np
import pytest
import torch

from worker.kernels.native import load_kernels
from worker.runners.latent.native import in_panels
from worker.runners.recorded.native import LANES

pytestmark = pytest.mark.usefixtures("kernels")
BLOCK, RANK, ROTATED = 4, 64, 32
WIDTH = RANK + ROTATED
DTYPES = {"float32": (torch.float32, 1e-5), "bfloat16": (torch.bfloat16, 2e-2)}


def word_of(dtype: torch.dtype) -> int:
    return 2 if dtype == torch.bfloat16 and load_kernels(dtype).can_multiply_pairs() else 1


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("num_parts", [1, 3, 16])
@pytest.mark.parametrize("heads", [1, 5, 16])
def test_attention_of_tiles_whose_keys_are_shared(name: str, num_parts: int, heads: int) -> None:
    """Sequences of one and of several tokens, at contexts around the size of a chunk; scores far from each other."""
    dtype, most = DTYPES[name]
    generator = torch.Generator().manual_seed(heads)
    lengths, counts = (1, 63, 65, 130, 700), (1, 1, 3, 4, 1)
    num_blocks = [-(-length // BLOCK) for length in lengths]
    ids = torch.randperm(sum(num_blocks), generator=generator)
    pool = torch.randn(sum(num_blocks), BLOCK, WIDTH, generator=generator).to(dtype)
    queries = (2 * torch.randn(sum(counts), heads, WIDTH, generator=generator)).to(dtype)
    items, expected, token, start = [], [], 0, 0
    for length, count, blocks in zip(lengths, counts, num_blocks, strict=True):
        items.append((token, count, length - count, start))
        keys = pool[ids[start : start + blocks]].flatten(0, 1)[:length].double()
        scores = torch.einsum("thw,kw->thk", queries[token : token + count].double(), keys) * 0.1
        hidden = torch.arange(length) > torch.arange(length - count, length)[:, None, None]
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        expected.append(torch.einsum("thk,kr->thr", weights, keys[:, :RANK]))
        token, start = token + count, start + blocks
    tables, item_list = ids.int().numpy(), np.array(items, dtype=np.int32)
    max_rows = heads * max(counts)
    parts = torch.full((len(items) * num_parts, max_rows, RANK + LANES), float("nan"))
    out = torch.empty(token, heads, RANK, dtype=dtype)
    load_kernels(dtype).attend_latents(
        queries.data_ptr(), pool.data_ptr(), BLOCK, tables.ctypes.data, item_list.ctypes.data, len(items), heads, WIDTH,
        RANK, 0.1, num_parts, max_rows, parts.data_ptr(), out.data_ptr(),
    )  # fmt: skip
    torch.testing.assert_close(out.double(), torch.cat(expected), atol=most, rtol=most)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 2, 9])
@pytest.mark.parametrize(("num_in", "num_out"), [(16, 96), (64, 16)])
def test_products_of_heads_between_others_numbers(name: str, num_rows: int, num_in: int, num_out: int) -> None:
    dtype, most = DTYPES[name]
    generator = torch.Generator().manual_seed(num_rows)
    weights = torch.randn(3, num_out, num_in, generator=generator).to(dtype)
    inputs = torch.randn(num_rows, 3, num_in + 8, generator=generator).to(dtype)
    out = torch.zeros(num_rows, 3, num_out + 32, dtype=dtype)
    panels = in_panels(weights, word_of(dtype))
    load_kernels(dtype).multiply_heads(
        panels.data_ptr(), inputs.data_ptr(), 3 * (num_in + 8), num_in + 8, out.data_ptr(), 3 * (num_out + 32),
        num_out + 32, num_rows, 3, num_in, num_out,
    )  # fmt: skip
    expected = torch.einsum("rhi,hoi->rho", inputs[..., :num_in].double(), weights.double())
    torch.testing.assert_close(out[..., :num_out].double(), expected, atol=10 * most, rtol=most)
    assert not out[..., num_out:].any()
