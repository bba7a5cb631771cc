"""Attention over latents against float64: selected slots and all keys, alone and in parts; NaN where none may look."""

from dataclasses import dataclass

import pytest
import torch

from worker.kernels.gpu.latent import attention
from worker.kernels.gpu.latent.attention import LatentKeys, attend_latents, splits_for

RANK, ROTATED, PAGE, SCALE = 20, 8, 16, 0.3
COUNTS = (40, 1, 90, 0)
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class LatentStep:
    """Queries of tokens, and pages of which each token sees the first `counts` keys of its sequence."""

    query: torch.Tensor
    pool: torch.Tensor
    table: torch.Tensor
    rows: torch.Tensor

    def seen(self, at: int) -> torch.Tensor:
        own = self.pool[0][self.table[self.rows[at]].long()].flatten(0, 1)
        return own[: COUNTS[at]].double()

    def expected(self, at: int, latents: torch.Tensor) -> torch.Tensor:
        weights = (self.query[at].double() @ latents.T * SCALE).softmax(-1)
        return weights @ latents[:, :RANK]


def latent_step(dtype: torch.dtype, heads: int = 20) -> LatentStep:
    torch.manual_seed(0)
    rows, table = torch.tensor([1, 0, 2, 0]).int(), torch.randperm(19)[:18].view(3, 6).int()
    pool = torch.randn(1, 19, PAGE, RANK + ROTATED).to(dtype)
    for row, length in ((0, 1), (1, 40), (2, 90)):
        flat = torch.arange(6 * PAGE)[length:]
        pool[0, table[row].long()[flat // PAGE], flat % PAGE] = torch.nan
    wide = torch.randn(len(COUNTS), heads + 3, RANK + ROTATED + 4).to(dtype)
    return LatentStep(wide[:, :heads, : RANK + ROTATED], pool, table, rows)


def attended(step: LatentStep, keys: LatentKeys, num_splits: int | None) -> torch.Tensor:
    out = torch.full((*step.query.shape[:2], RANK), 7.0, dtype=step.query.dtype)
    attend_latents(step.query, keys, out, scale=SCALE, max_keys=96, num_splits=num_splits, heads_block=16)
    return out


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("num_splits", [1, 4, None])
def test_all_keys_of_a_sequence_are_attended_to(dtype: torch.dtype, num_splits: int | None) -> None:
    step = latent_step(dtype)
    out = attended(step, LatentKeys(step.pool, torch.tensor(COUNTS).int(), None, step.table, step.rows), num_splits)
    for at in range(3):
        assert (out[at].double() - step.expected(at, step.seen(at))).abs().max() < BOUNDS[dtype]
    assert not out[3].any()  # of no sequence


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("num_splits", [1, 3, None])
def test_selected_slots_are_attended_to_and_no_others(dtype: torch.dtype, num_splits: int | None) -> None:
    step = latent_step(dtype)
    slots, counts = torch.full((4, 33), 2**30).int(), [33, 1, 20, 0]  # what is not counted is no place at all
    places = [torch.randperm(COUNTS[at])[: counts[at]] for at in range(4)]
    for at, own in enumerate(places):
        blocks = step.table[step.rows[at]].long()[own // PAGE]
        slots[at, : len(own)] = (blocks * PAGE + own % PAGE).int()
    out = attended(step, LatentKeys(step.pool, torch.tensor(counts).int(), slots), num_splits)
    for at in range(3):
        assert (out[at].double() - step.expected(at, step.seen(at)[places[at]])).abs().max() < BOUNDS[dtype]
    slots[0, 5] = slots[2, 0]
    wrong = attended(step, LatentKeys(step.pool, torch.tensor(counts).int(), slots), num_splits)
    assert (wrong[0].double() - step.expected(0, step.seen(0)[places[0]])).abs().max() > 2 * BOUNDS[dtype]


def test_few_tokens_share_their_keys_among_programs_and_long_ones_always_do() -> None:
    assert splits_for(2, 2048, 132) == (32, 32)
    assert splits_for(32, 2048, 132) == (4, 4)
    assert splits_for(512, 2048, 132) == (1, 1)
    assert splits_for(512, 32768, 132) == (1, 16)
    assert splits_for(2, 40, 132) == (1, 1)


@pytest.mark.parametrize("most", [2**26, 1])
def test_a_long_sequence_has_more_parts_than_others_where_they_have_room(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "splits_for", lambda *_: (1, 4))
    monkeypatch.setattr(attention, "MAX_PARTS", most)
    step = latent_step(torch.float32)
    out = attended(step, LatentKeys(step.pool, torch.tensor(COUNTS).int(), None, step.table, step.rows), None)
    for at in range(3):
        assert (out[at].double() - step.expected(at, step.seen(at))).abs().max() < BOUNDS[torch.float32]
