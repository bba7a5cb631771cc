"""Groups the rows of a step by expert, in blocks of equal size, without waiting for the choice of experts.

There are as many blocks as any choice could need, so a step's launches are always the same and can be recorded.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

FEW_ROWS = 2048  # that one program groups; more are sorted by torch
TILE = 4096  # rows times experts of a turn


@dataclass(frozen=True, slots=True)
class Groups:
    """Blocks of rows, all of a block for one expert."""

    block_experts: torch.Tensor  # [blocks] int32; -1: the block is empty
    slots: torch.Tensor  # [blocks * block_m] int32: the rows of each block; num_rows: none
    block_m: int
    num_rows: int

    @property
    def num_blocks(self) -> int:
        return len(self.block_experts)


def num_blocks(num_rows: int, num_experts: int, block_m: int) -> int:
    """That any choice needs at most: each expert that was chosen has one block that is not full."""
    return (num_rows + min(num_rows, num_experts) * (block_m - 1)) // block_m


def grouped(expert_ids: torch.Tensor, num_experts: int, block_m: int) -> Groups:
    """The groups of rows whose experts are `expert_ids` [rows]. Rows of an expert keep their order."""
    num_rows = len(expert_ids)
    count = num_blocks(num_rows, num_experts, block_m)
    if num_rows > FEW_ROWS:
        return Groups(*sorted_groups(expert_ids, num_experts, block_m, count), block_m, num_rows)
    block_experts = torch.empty(count, dtype=torch.int32, device=expert_ids.device)
    slots = torch.empty(count * block_m, dtype=torch.int32, device=expert_ids.device)
    block_e = triton.next_power_of_2(num_experts)
    group_kernel[(1,)](
        expert_ids, block_experts, slots, num_rows, count, count * block_m,
        BLOCK_M=block_m, BLOCK_E=block_e, BLOCK_S=max(16, TILE // block_e), num_warps=8,
    )  # fmt: skip
    return Groups(block_experts, slots, block_m, num_rows)


def sorted_groups(
    expert_ids: torch.Tensor, num_experts: int, block_m: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by torch: block_experts and slots."""
    num_rows, device = len(expert_ids), expert_ids.device
    ids, rows = torch.sort(expert_ids.long(), stable=True)
    sizes = torch.zeros(num_experts, dtype=torch.long, device=device).scatter_add_(0, ids, torch.ones_like(ids))
    stops = ((sizes + block_m - 1) // block_m).cumsum(0)
    firsts = stops - (sizes + block_m - 1) // block_m
    ranks = torch.arange(num_rows, device=device) - (sizes.cumsum(0) - sizes)[ids]
    slots = torch.full((count * block_m,), num_rows, dtype=torch.int32, device=device)
    slots.scatter_(0, firsts[ids] * block_m + ranks, rows.int())
    blocks = torch.arange(count, device=device)
    experts = torch.searchsorted(stops, blocks, right=True)
    return torch.where(blocks < stops[-1], experts, -1).int(), slots


@triton.jit(do_not_specialize=("num_rows", "num_blocks", "num_slots"))
def group_kernel(
    expert_ids, block_experts, slots, num_rows, num_blocks, num_slots,
    BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: the sizes of the groups, the expert of each block, then the place of each row."""
    e, s = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_S)
    sizes = tl.zeros([BLOCK_E], tl.int32)
    for start in range(0, num_rows, BLOCK_S):
        ids = tl.load(expert_ids + start + s, mask=start + s < num_rows, other=-1).to(tl.int32)
        sizes += tl.sum((ids[:, None] == e[None, :]).to(tl.int32), axis=0)
    blocks = (sizes + BLOCK_M - 1) // BLOCK_M
    stops = tl.cumsum(blocks, axis=0)
    total = tl.sum(blocks, axis=0)
    for start in range(0, num_blocks, BLOCK_S):
        block = start + s
        expert = tl.sum((stops[None, :] <= block[:, None]).to(tl.int32), axis=1)  # those that end before it
        tl.store(block_experts + block, tl.where(block < total, expert, -1), mask=block < num_blocks)
    for start in range(0, num_slots, BLOCK_S):
        tl.store(slots + start + s, tl.zeros([BLOCK_S], tl.int32) + num_rows, mask=start + s < num_slots)
    tl.debug_barrier()  # rows are stored over that
    next_slots = (stops - blocks) * BLOCK_M
    for start in range(0, num_rows, BLOCK_S):
        row = start + s
        ids = tl.load(expert_ids + row, mask=row < num_rows, other=-1).to(tl.int32)
        hits = (ids[:, None] == e[None, :]).to(tl.int32)
        before = tl.cumsum(hits, axis=0) - hits
        slot = tl.sum(hits * (next_slots[None, :] + before), axis=1)
        tl.store(slots + slot, row, mask=row < num_rows)
        next_slots += tl.sum(hits, axis=0)
