"""Latents, index keys and index queries against transformers' rotations and torch's norms."""

import pytest
import torch
from torch.nn import functional as F
from transformers.models.deepseek_v32.modeling_deepseek_v32 import apply_rotary_pos_emb, apply_rotary_pos_emb_interleave

from worker.attention.latent.index_keys import index_shape, read_index_keys, turned
from worker.kernels.gpu.latent.index_writes import IndexNorm, rounded_index, write_index
from worker.kernels.gpu.latent.writes import rotate_and_write_latents

TOKENS, HEADS, DIM, ROTATED, RANK, OWN, PAGE = 5, 6, 16, 8, 24, 12, 8
SLOTS = torch.tensor([3, 50, -1, 17, 18])
WRITTEN = [0, 1, 3, 4]
DTYPES = (torch.float32, torch.bfloat16)
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7}


def rotation() -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.randn(TOKENS, ROTATED // 2)
    return torch.cat([angles.cos()] * 2, 1), torch.cat([angles.sin()] * 2, 1)


def by_halves(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """[T, heads, dim] with the first numbers rotated as the indexer does."""
    own = heads[None, ..., :ROTATED]
    rotated, _ = apply_rotary_pos_emb(own, own, cos[None], sin[None], unsqueeze_dim=2)
    return torch.cat([rotated[0], heads[..., ROTATED:]], -1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_latents_are_normed_and_rotated_where_they_belong_and_queries_beside(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    cos, sin = rotation()
    query = torch.randn(TOKENS, HEADS + 2, OWN + ROTATED).to(dtype)[:, :HEADS]
    latents, norm = torch.randn(TOKENS, RANK + ROTATED + 5).to(dtype)[:, : RANK + ROTATED], torch.randn(RANK).to(dtype)
    pool, out = (torch.zeros(1, 7, PAGE, RANK + ROTATED, dtype=dtype), torch.full((TOKENS, HEADS, 32), 9.0).to(dtype))
    rotate_and_write_latents(query, latents, norm, 1e-6, (cos, sin), SLOTS, pool, out)
    wide = latents.double()
    normed = wide[:, :RANK] * (wide[:, :RANK].square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.double()
    queries, keys = apply_rotary_pos_emb_interleave(
        query.double()[None, ..., OWN:], wide[None, :, None, RANK:], cos[None], sin[None], unsqueeze_dim=2
    )
    expected = torch.cat([normed, keys[0, :, 0]], 1)
    found = pool[0].flatten(0, 1)
    close = {"atol": ROUNDING[dtype], "rtol": ROUNDING[dtype]}
    torch.testing.assert_close(found[SLOTS[WRITTEN]].double(), expected[WRITTEN], **close)
    torch.testing.assert_close(out[..., RANK:].double(), queries[0].double(), **close)
    assert (out[..., :RANK] == 9).all()  # what products with weights write
    assert found.abs().sum(1).nonzero().flatten().tolist() == sorted(SLOTS[WRITTEN].tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_ready", [False, True])
def test_index_keys_are_normed_rotated_and_written(dtype: torch.dtype, is_ready: bool) -> None:
    torch.manual_seed(0)
    cos, sin = rotation()
    width, pool_dtype = index_shape(DIM, dtype)
    pool = torch.zeros(1, 7, PAGE, width, dtype=pool_dtype or dtype)
    keys = torch.randn(TOKENS, DIM + 4).to(dtype)[:, :DIM]
    norm = IndexNorm(torch.randn(DIM).to(dtype), torch.randn(DIM).to(dtype), 1e-6)
    if is_ready:
        write_index(keys, SLOTS, pool, None, None)
        expected = keys.float()
    else:
        write_index(keys, SLOTS, pool, norm, (cos, sin))
        normed = F.layer_norm(keys.float(), (DIM,), norm.weight.float(), norm.bias.float(), norm.eps)
        expected = by_halves(normed[:, None], cos, sin)[:, 0]
    found = read_index_keys(pool, slice(0, 7))
    bound = 2e-6
    if pool_dtype is not None:
        expected, bound = turned(expected), 2**-4 * float(turned(expected).abs().max())
    assert (found[SLOTS[WRITTEN]] - expected[WRITTEN]).abs().max() < bound
    assert found.abs().sum(1).nonzero().flatten().tolist() == sorted(SLOTS[WRITTEN].tolist())


@pytest.mark.parametrize("is_8_bit", [False, True])
def test_index_queries_are_rotated_and_in_8_bits_their_scales_are_in_the_weights(is_8_bit: bool) -> None:
    torch.manual_seed(0)
    cos, sin = rotation()
    queries = torch.randn(TOKENS, 2 * HEADS, DIM)[:, :HEADS]
    weights = torch.randn(TOKENS, HEADS)
    found, found_weights = rounded_index(queries, weights, (cos, sin), is_8_bit=is_8_bit)
    expected = by_halves(queries, cos, sin)
    if is_8_bit:
        scales = (found_weights / weights)[..., None]
        assert (found.float() * scales - turned(expected)).abs().max() < 2**-4 * expected.abs().max()
    else:
        torch.testing.assert_close(found, expected)
        assert torch.equal(found_weights, weights)


def test_vectors_of_no_power_of_two_are_turned_in_parts() -> None:
    queries, weights = torch.randn(3, 4, 24), torch.ones(3, 4)
    found, scales = rounded_index(queries, weights, None, is_8_bit=True)
    assert (found.float() * scales[..., None] - turned(queries)).abs().max() < 2**-4 * queries.abs().max()
