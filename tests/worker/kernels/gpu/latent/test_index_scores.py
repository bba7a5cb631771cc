"""Index scores, and the keys that they select, against what they mean."""

from collections.abc import Iterator

import pytest
import torch

from worker.attention.latent.index_keys import read_index_keys, write_index_keys
from worker.kernels.gpu.latent import index_scores as kernels
from worker.kernels.gpu.latent.index_scores import IndexPages, index_scores
from worker.kernels.gpu.latent.index_writes import rounded_index
from worker.kernels.gpu.latent.places import token_places
from worker.kernels.gpu.latent.selection import select_slots

HEADS, DIM, PAGE, TOPK = 6, 16, 8, 10
STARTS, NUM_KEYS, TOKENS = (0, 1, 2, 11, 12, 12), (50, 4, 60, 40, 0), 15  # three tokens are padding
ROWS = [0, 1, *[2] * 9, 3, 0, 0, 0]
SEEN = [50, 4, *range(52, 61), 40, 0, 0, 0]


@pytest.fixture(params=["one token a program", "tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of tokens, of which one has tokens of three sequences."""
    monkeypatch.setattr(kernels, "FEW_TOKENS", 64 if request.param == "one token a program" else 0)
    yield


def index_pages(*, is_8_bit: bool = False) -> IndexPages:
    torch.manual_seed(0)
    rows, keys = token_places(torch.tensor(STARTS).int(), torch.tensor(NUM_KEYS).int(), TOKENS)
    pool = torch.zeros(1, 41, PAGE, DIM + 4, dtype=torch.uint8) if is_8_bit else torch.zeros(1, 41, PAGE, DIM)
    write_index_keys(pool, torch.arange(41 * PAGE), torch.randn(41 * PAGE, DIM))
    return IndexPages(pool, torch.randperm(41)[:40].view(5, 8).int(), torch.tensor(STARTS).int(), rows, keys)


def slots_seen(pages: IndexPages, at: int) -> torch.Tensor:
    blocks = pages.block_table[ROWS[at]].long()
    return (blocks[:, None] * PAGE + torch.arange(PAGE)).flatten()[: SEEN[at]]


def test_tokens_find_their_sequences_and_what_they_see() -> None:
    pages = index_pages()
    assert pages.token_rows.tolist() == ROWS
    assert pages.token_keys.tolist() == SEEN


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("is_8_bit", [False, True])
def test_scores_are_sums_over_heads_of_positive_products(is_8_bit: bool) -> None:
    pages = index_pages(is_8_bit=is_8_bit)
    queries, weights = torch.randn(TOKENS, HEADS, DIM), torch.randn(TOKENS, HEADS)
    queries, weights = rounded_index(queries, weights, None, is_8_bit=is_8_bit)
    scores = torch.full((TOKENS - 1, 64), torch.nan)
    index_scores(queries, weights, pages, scores, 1, TOPK)
    keys = read_index_keys(pages.pool, slice(0, 41))
    for at in range(1, TOKENS):
        own = scores[at - 1]
        if SEEN[at] <= TOPK:
            assert own.isnan().all()
            continue
        products = queries[at].float() @ keys[slots_seen(pages, at)].T
        torch.testing.assert_close(own[: SEEN[at]], weights[at] @ products.relu(), atol=1e-4, rtol=1e-5)
        assert own[SEEN[at] :].isnan().all()


@pytest.mark.parametrize("block", [16, 64])
def test_the_highest_scores_are_selected_and_of_equal_ones_the_first(block: int) -> None:
    pages, scores = index_pages(), torch.randn(TOKENS, 64)
    scores[2, :40] = 0.0  # more equal ones than may be taken
    scores[3, ::2] = -0.0
    scores[3, 1::2] = 0.0  # the same number
    scores[4] = -scores[4].abs()
    scores[5] = torch.inf
    scores[6, 5:20] = 1e30
    slots, counts = torch.full((TOKENS, TOPK), -1).int(), torch.full((TOKENS,), -1).int()
    select_slots(scores, pages, slots, counts, 0, block)
    assert counts.tolist() == [min(seen, TOPK) for seen in SEEN]
    for at, seen in enumerate(SEEN):
        best = sorted(range(seen), key=lambda key, at=at: (-float(scores[at, key]), key))[:TOPK]
        assert slots[at, : len(best)].tolist() == slots_seen(pages, at)[sorted(best)].tolist()
        assert (slots[at, len(best) :] == -1).all()


def test_a_row_of_nan_selects_as_many_and_harms_no_other() -> None:
    pages, scores = index_pages(), torch.randn(TOKENS, 64)
    slots, counts = torch.full((TOKENS, TOPK), -1).int(), torch.zeros(TOKENS).int()
    select_slots(scores, pages, slots, counts, 0)
    poisoned, expected = scores.clone(), slots.clone()
    poisoned[2] = torch.nan
    poisoned[3, 7] = torch.nan
    select_slots(poisoned, pages, slots, counts, 0)
    assert set(slots[2].tolist()) <= set(slots_seen(pages, 2).tolist())
    slots[2:4] = expected[2:4]
    assert torch.equal(slots, expected)
