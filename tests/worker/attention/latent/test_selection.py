"""Selection by index scores, and attention over what was selected, against what they mean, written plainly."""

from collections.abc import Sequence as Seq

import pytest
import torch

from worker.attention.groups import AttentionGroup, build_groups, token_slots
from worker.attention.latent import selection
from worker.attention.latent.index_keys import index_shape, read_index_keys, turned, write_index_keys
from worker.attention.latent.selected import attend_selected
from worker.attention.latent.selection import Selected, pieces, select
from worker.attention.latent.spec import LatentSpec
from worker.runners.probe import probe_sequence
from worker.state.scheduled_sequence import ScheduledSequence

CPU = torch.device("cpu")
PAGE, HEADS, DIM, TOPK = 8, 6, 16, 10
ROWS = ((1, 50), (1, 41), (1, 4), (9, 30), (5, 12))  # (tokens, keys) in kernel order
DTYPES = (torch.float32, torch.bfloat16)


class IndexedStep:
    """A step whose sequences' blocks lie in random order, and index keys for all of their tokens."""

    def __init__(self, dtype: torch.dtype, rows: Seq[tuple[int, int]] = ROWS) -> None:
        make = torch.Generator().manual_seed(1)
        num_blocks = sum(-(-num_keys // PAGE) for _, num_keys in rows)
        free = torch.randperm(num_blocks, generator=make).tolist()
        self.rows = [scheduled(num, num_keys, free) for num, num_keys in rows]
        self.groups: list[AttentionGroup] = build_groups(self.rows, PAGE, CPU)
        width, pool_dtype = index_shape(DIM, dtype)
        self.pool = torch.zeros(1, num_blocks, PAGE, width, dtype=pool_dtype or dtype)
        self.keys = [torch.randn(num_keys, DIM, generator=make).to(dtype) for _, num_keys in rows]
        for row, keys in zip(self.rows, self.keys, strict=True):
            write_index_keys(self.pool, torch.tensor(all_slots(row)), keys)
        total = sum(num for num, _ in rows)
        self.queries = torch.randn(total, HEADS, DIM, generator=make).to(dtype)
        self.weights = torch.randn(total, HEADS, generator=make)

    def scores(self) -> list[torch.Tensor]:
        """Of each token, over the keys that it sees."""
        found, at = [], 0
        for row, keys in zip(self.rows, self.keys, strict=True):
            for position in range(row.start, row.start + row.num_inputs):
                products = self.queries[at].float() @ keys[: position + 1].float().T
                found.append(self.weights[at] @ products.relu())
                at += 1
        return found

    def sets(self, selected: Selected) -> list[set[int]]:
        """The positions that were selected for each token."""
        found, at = [], 0
        for row in self.rows:
            places = {slot: position for position, slot in enumerate(all_slots(row))}
            for _ in range(row.num_inputs):
                slots = selected.slots[at, : selected.counts[at]].tolist()
                assert slots == sorted(slots, key=places.__getitem__)
                found.append({places[slot] for slot in slots})
                at += 1
        return found


def scheduled(num_tokens: int, num_keys: int, free: list[int]) -> ScheduledSequence:
    sequence = probe_sequence([1] * num_keys)
    sequence.block_ids = [free.pop() for _ in range(-(-num_keys // PAGE))]
    sequence.begin_at(num_keys - num_tokens)
    return ScheduledSequence(sequence, num_tokens)


def all_slots(row: ScheduledSequence) -> list[int]:
    whole = probe_sequence([1] * (row.start + row.num_inputs))
    whole.block_ids = row.sequence.block_ids
    return token_slots([ScheduledSequence(whole, row.start + row.num_inputs)], PAGE)


@pytest.mark.parametrize("most", [selection.MAX_ROW_SCORES, 60])
def test_the_keys_with_the_highest_scores_are_selected_for_each_token(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of one query too; a token that sees no more keys gets them all."""
    monkeypatch.setattr(selection, "MAX_ROW_SCORES", most)
    monkeypatch.setattr(selection, "MAX_HEAD_SCORES", most)
    step = IndexedStep(torch.float32)
    selected = select(step.pool, step.groups, step.queries, step.weights, TOPK)
    assert selected is not None
    for found, scores in zip(step.sets(selected), step.scores(), strict=True):
        assert found == set(scores.topk(min(TOPK, len(scores))).indices.tolist())


def test_keys_in_8_bits_select_nearly_the_same() -> None:
    """No key is selected whose score is lower than that of one left out by more than rounding explains."""
    step = IndexedStep(torch.bfloat16)
    selected = select(step.pool, step.groups, step.queries, step.weights, TOPK)
    assert selected is not None
    for found, scores in zip(step.sets(selected), step.scores(), strict=True):
        assert len(found) == min(TOPK, len(scores))
        others = [score for at, score in enumerate(scores.tolist()) if at not in found]
        assert max(others, default=-1e9) - min(scores[list(found)].tolist()) < 0.15 * float(scores.std(unbiased=False))


def test_nothing_is_selected_while_all_see_no_more_than_that() -> None:
    step = IndexedStep(torch.float32)
    assert select(step.pool, step.groups, step.queries, step.weights, 50) is None
    assert select(step.pool, step.groups, step.queries, step.weights, 49) is not None


def test_index_keys_in_8_bits_take_a_byte_a_number_and_a_scale_a_token() -> None:
    step = IndexedStep(torch.bfloat16)
    assert (step.pool.dtype, step.pool.shape[-1]) == (torch.uint8, DIM + 4)
    row, keys = step.rows[0], step.keys[0].float()
    read = read_index_keys(step.pool, torch.tensor(row.sequence.block_ids))[: len(keys)]
    assert (read - turned(keys)).abs().max() < 2**-4 * keys.abs().max()
    queries = step.queries[0].float()
    torch.testing.assert_close(turned(queries) @ turned(keys).T, queries @ keys.T)


@pytest.mark.parametrize("dim", [16, 24, 128])
def test_turning_leaves_products_and_spreads_a_large_number(dim: int) -> None:
    alone = torch.zeros(dim)
    alone[3] = 1.0
    spread = turned(alone)
    assert spread.norm() == pytest.approx(1.0)
    assert spread.abs().max() == pytest.approx((dim & -dim) ** -0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_reads_what_was_selected_and_nothing_else(dtype: torch.dtype) -> None:
    step, spec = IndexedStep(torch.float32), LatentSpec(scale=0.3, rank=12, topk=TOPK)
    make = torch.Generator().manual_seed(2)
    latents = torch.randn(1, step.pool.shape[1], PAGE, 16, generator=make).to(dtype)
    queries = torch.randn(len(step.queries), 3, 16, generator=make).to(dtype)
    selected = select(step.pool, step.groups, step.queries, step.weights, TOPK)
    assert selected is not None
    for slots, count in zip(selected.slots, selected.counts.tolist(), strict=True):
        slots[count:] = 2**30  # what is not counted is no place at all
    output = attend_selected(queries, latents, selected, step.groups, spec)
    for at, query in enumerate(queries.double()):
        own = latents[0].flatten(0, 1)[selected.slots[at, : selected.counts[at]].long()].double()
        expected = (query @ own.T * spec.scale).softmax(-1) @ own[:, : spec.rank]
        torch.testing.assert_close(
            output[at].double(), expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0
        )


def test_pieces_have_one_at_least() -> None:
    assert list(pieces(3, 0)) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert list(pieces(5, 3)) == [slice(0, 3), slice(3, 5)]
