"""Index keys in the pages of the KV cache: as they were computed, or in 8 bits with a scale for each token.

In 8 bits a block holds the e4m3 numbers of its tokens one after the other, then their scales in float32: so both can be
read in whole lines of memory. Before they are rounded, keys and queries are turned by one orthogonal matrix, which
leaves their products as they are and spreads single large numbers over all of a vector, as DeepSeek's own code does.
"""

from functools import cache

import torch

from worker.kernels.elementwise import to_fp8
from worker.state.kv_cache import FP8

SCALE_BYTES = 4  # of a token


def index_shape(dim: int, dtype: torch.dtype) -> tuple[int, torch.dtype | None]:
    """Numbers of a token's index key in the pool, and their dtype, None for the cache's; `dtype`: the model's."""
    return (dim, None) if dtype == torch.float32 else (dim + SCALE_BYTES, torch.uint8)


def is_8_bit(pool: torch.Tensor) -> bool:
    """True for a pool of numbers in 8 bits."""
    return pool.dtype == torch.uint8


def parts_of(pool: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a pool in 8 bits, [1, blocks, size, dim + 4]: numbers [blocks, size, dim], scales [blocks, size]. Views."""
    _, _, size, width = pool.shape
    blocks, num_numbers = pool[0].flatten(1), size * (width - SCALE_BYTES)
    numbers = blocks[:, :num_numbers].view(len(blocks), size, -1)
    return numbers, blocks[:, num_numbers:].view(torch.float32)


def write_index_keys(pool: torch.Tensor, slots: torch.Tensor, keys: torch.Tensor) -> None:
    """Write keys [T, dim] to the `slots` [T] of a layer's pool."""
    size = pool.shape[2]
    block, place = slots // size, slots % size
    if not is_8_bit(pool):
        pool[0, block, place] = keys.to(pool.dtype)
        return
    numbers, scales = parts_of(pool)
    rounded, own_scales = to_fp8(turned(keys.float()))
    numbers[block, place] = rounded.view(torch.uint8)
    scales[block, place] = own_scales[:, 0]


def read_index_keys(pool: torch.Tensor, blocks: torch.Tensor | slice) -> torch.Tensor:
    """The keys of blocks, as many in a row as they hold: float32 [blocks * size, dim], turned if they are in 8 bits."""
    if not is_8_bit(pool):
        return pool[0, blocks].flatten(0, 1).float()
    numbers, scales = parts_of(pool)
    return (numbers[blocks].view(FP8).float() * scales[blocks, :, None]).flatten(0, 1)


def turned(vectors: torch.Tensor) -> torch.Tensor:
    """[..., dim] times the matrix of turning_matrix(), in their dtype."""
    return vectors @ turning_matrix(vectors.shape[-1]).to(vectors)


@cache
def turning_matrix(dim: int) -> torch.Tensor:
    """The orthogonal [dim, dim] of Hadamard: numbers of one size, whose signs are the parity of the bits in common.

    A `dim` that is no power of two is turned in parts that are.
    """
    part = dim & -dim
    signs = torch.ones(1, 1)
    while len(signs) < part:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    return torch.kron(torch.eye(dim // part), signs * part**-0.5)
