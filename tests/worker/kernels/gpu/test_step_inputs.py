"""The kernel that fills the buffers of a recorded step, in Triton's interpreter."""

import pytest
import torch

from worker.kernels.gpu.step_inputs import BLOCK, fill_step

UNTOUCHED = -7


def test_a_table_is_copied_to_its_buffers_and_pending_tokens_are_read_from_the_samples() -> None:
    longs, ints = torch.full((19,), UNTOUCHED), torch.full((7,), UNTOUCHED, dtype=torch.int32)
    block_table = torch.full((3, 6), UNTOUCHED, dtype=torch.int32)
    table = torch.arange(100, 100 + 19 + 7 + 5 + 3 * 2, dtype=torch.int32)
    table[26:31] = torch.tensor([-1, 1, -1, 0, -1])  # of five tokens
    fill_step(table, torch.tensor([-1, 99]), longs, ints, block_table, 5)
    assert longs.tolist() == [100, 99, 102, 0, *range(104, 119)]
    assert ints.tolist() == list(range(119, 126))
    assert block_table.tolist() == [[131, 132, *[UNTOUCHED] * 4], [133, 134, *[UNTOUCHED] * 4], [135, 136, *[-7] * 4]]


@pytest.mark.parametrize("width", [0, 1, 5])
def test_tables_of_every_length_are_copied_whole(width: int) -> None:
    """Two programs and more; the block table may be a part of a wider one."""
    num_tokens = BLOCK - 3
    longs, ints = torch.zeros(num_tokens + 16, dtype=torch.long), torch.zeros(16, dtype=torch.int32)
    wide = torch.full((40, 9), UNTOUCHED, dtype=torch.int32)
    table = torch.arange(len(longs) + len(ints) + num_tokens + 40 * width, dtype=torch.int32)
    table[len(longs) + len(ints) :][:num_tokens] = -1
    fill_step(table, torch.empty(0, dtype=torch.long), longs, ints, wide[:, :5], num_tokens)
    blocks = table[len(longs) + len(ints) + num_tokens :].view(40, width)
    assert torch.equal(torch.cat([longs, ints]), table[: len(longs) + len(ints)].long())
    assert torch.equal(wide[:, :width], blocks) and (wide[:, width:] == UNTOUCHED).all()
