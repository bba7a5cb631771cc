"""Splits the keys of a launch over programs, so that few tiles fill a GPU, and puts the parts together."""

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.attention_loop import place_of, share_of
from worker.kernels.gpu.runtime import begin

MAX_SPLITS = 64
FEW_SPLITS = 8
MIN_KEYS = 128  # of a split, at the longest context of the launch
MAX_KEYS = 16384  # of a split, where one sequence may be much longer than the others
WAVES = 2  # programs that are wanted for each multiprocessor
INTERPRETED_MULTIPROCESSORS = 8

# as in paged_attention.py
VARYING = ("window", "num_splits", "usual_splits")
TABLES = ("num_keys", "query_starts", "tile_rows", "tile_starts")


def choose_splits(
    num_tiles: int, kv_heads: int, max_keys: int, num_multiprocessors: int, *, is_uneven: bool = False
) -> int:
    """Programs that share the keys of a tile, as many as fill the GPU. A sequence shares its own keys equally.

    `is_uneven`: enough, too, that a sequence of `max_keys` beside short ones does not keep one program busy for long.
    """
    wanted = WAVES * num_multiprocessors // (num_tiles * kv_heads)
    least = -(-max_keys // MAX_KEYS) if is_uneven else 1
    return max(1, min(max(wanted, least), -(-max_keys // MIN_KEYS), MAX_SPLITS))


def splits_to_fill(num_tiles: int, kv_heads: int, num_multiprocessors: int) -> int:
    """Splits of each sequence that fill the GPU, if all are equally long.

    Where one of each is more than fill it, as many as there are: else the last few programs run by themselves.
    """
    return WAVES * num_multiprocessors // (num_tiles * kv_heads) or MAX_SPLITS


def num_multiprocessors(device: torch.device) -> int:
    """Of the GPU; in the interpreter a few."""
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def combine_shape(num_splits: int, value_dim: int) -> dict[str, int]:
    """combine_kernel's blocks, and warps for 64 numbers a thread. Of splits there are two, since each is compiled."""
    block_s, block_v = FEW_SPLITS if num_splits <= FEW_SPLITS else MAX_SPLITS, triton.next_power_of_2(value_dim)
    return {"BLOCK_S": block_s, "BLOCK_V": block_v, "num_warps": max(1, min(16, block_s * block_v // 2048))}


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=TABLES)
def combine_kernel(
    parts, log_sums, out, num_keys, query_starts, tile_rows, tile_starts, window, num_splits, usual_splits,
    VALUE_DIM: tl.constexpr, TILE_QUERIES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_V: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """One query of one head. `parts` [splits, places, heads, dim], `log_sums` [splits, places, heads].

    `out` is [T, heads, dim].
    """
    begin(OVERLAPS)
    head, num_heads = tl.program_id(0), tl.num_programs(0)
    place, num_places = tl.program_id(1), tl.num_programs(1)
    tile, query = place // TILE_QUERIES, place % TILE_QUERIES
    _, first, count, position = place_of(tile, tile_rows, tile_starts, query_starts, num_keys, TILE_QUERIES)
    if query >= count:
        return
    s, v = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_V)
    low, high = share_of(s, num_splits, usual_splits, position, count, window, BLOCK_N)
    rows = (s.to(tl.int64) * num_places + place) * num_heads + head
    is_used = (s < num_splits) & (low < high)
    sums = tl.load(log_sums + rows, mask=is_used, other=float("-inf"))
    weights = tl.exp2(sums - tl.max(sums, 0))
    mask = is_used[:, None] & (v[None, :] < VALUE_DIM)
    part = tl.load(parts + rows[:, None] * VALUE_DIM + v[None, :], mask=mask, other=0.0)
    result = tl.sum(part * weights[:, None], 0) / tl.sum(weights, 0)
    at = (first + query).to(tl.int64) * num_heads + head
    tl.store(out + at * VALUE_DIM + v, result.to(out.dtype.element_ty), mask=v < VALUE_DIM)
