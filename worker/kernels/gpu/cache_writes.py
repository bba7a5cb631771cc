"""Writes of keys and values to the paged KV cache, both in one launch, for models that rotate by themselves."""

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.rotary import copy_heads

ROWS = 16  # heads of tokens in a program
WARP_NUMBERS = 512  # 16 a thread


def write(
    key: torch.Tensor,
    value: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: tuple[torch.Tensor | None, torch.Tensor | None],
) -> None:
    """Write [T, kv_heads, dim] each, with any strides but the last, to the `slots` [T] of the pools; negative: nowhere.

    Pools [kv_heads, blocks, block_size, dim] with any strides but the last; fp8 pools hold numbers divided by `scales`
    (float32 [kv_heads], of keys and of values), limited to their range.
    """
    kv_heads, _, block_size, key_dim = keys.shape
    if len(slots) == 0:
        return
    write_kernel[(triton.cdiv(len(slots) * kv_heads, ROWS), 2)](
        key, value, slots, keys, values, *scales, *key.stride()[:2], *value.stride()[:2],
        *keys.stride()[:3], *values.stride()[:3], len(slots),
        **constants_of(kv_heads, key_dim, values.shape[-1], block_size),
    )  # fmt: skip


def constants_of(kv_heads: int, key_dim: int, value_dim: int, block_size: int) -> dict[str, int]:
    """What is compiled into the kernel, and its warps."""
    numbers = ROWS * triton.next_power_of_2(max(key_dim, value_dim))
    num_warps = max(1, min(8, numbers // WARP_NUMBERS))
    sizes = {"KV_HEADS": kv_heads, "KEY_DIM": key_dim, "VALUE_DIM": value_dim, "BLOCK_SIZE": block_size}
    return sizes | {"ROWS": ROWS, "num_warps": num_warps}


@triton.jit(do_not_specialize=("num_tokens",))
def write_kernel(
    key, value, slots, keys, values, key_scales, value_scales,
    new_key_token, new_key_head, new_value_token, new_value_head,
    key_head, key_block, key_token, value_head, value_block, value_token, num_tokens,
    KV_HEADS: tl.constexpr, KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Program (some heads of some tokens, keys or values)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token, head = (row // KV_HEADS).to(tl.int64), row % KV_HEADS
    slot = tl.load(slots + token, mask=token < num_tokens, other=-1)
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    if tl.program_id(1) == 0:
        source = key + token * new_key_token + head * new_key_head
        target = keys + block * key_block + offset * key_token + head.to(tl.int64) * key_head
        copy_heads(source, target, slot >= 0, key_scales, head, KEY_DIM)
    else:
        source = value + token * new_value_token + head * new_value_head
        target = values + block * value_block + offset * value_token + head.to(tl.int64) * value_head
        copy_heads(source, target, slot >= 0, value_scales, head, VALUE_DIM)
