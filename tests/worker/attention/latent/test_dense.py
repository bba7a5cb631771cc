"""Attention over all latents holds no more scores at a time than it says."""

from typing import Any

import pytest
import torch

from worker.attention.groups import AttentionGroup
from worker.attention.latent import dense
from worker.attention.latent.dense import attend_all

HEADS, WIDTH, RANK = 3, 8, 6


@pytest.mark.parametrize("sizes", [(5, 1, 40), (1, 30, 40), (2, 7, 40)], ids=["decodes", "chunk", "both"])
def test_the_sums_are_those_of_one_piece_and_pieces_are_small(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int]
) -> None:
    batch, num_queries, num_keys = sizes
    torch.manual_seed(0)
    positions = num_keys - num_queries + torch.arange(num_queries) - torch.arange(batch)[:, None]
    group = AttentionGroup(0, batch * num_queries, batch, num_queries, num_keys, slice(0, 0), positions)
    call = torch.randn(batch * num_queries, HEADS, WIDTH), torch.randn(batch, num_keys, WIDTH), group, RANK, 0.3
    expected, seen = attend_all(*call), list[int]()
    piece = dense.attend_piece

    def noted(queries: torch.Tensor, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(queries[..., 0].numel() * latents.shape[1])
        return piece(queries, latents, *rest)

    monkeypatch.setattr(dense, "attend_piece", noted)
    for most, limit in ((2 * HEADS * num_keys, 2 * HEADS * num_keys), (1, HEADS * num_keys)):
        seen.clear()
        monkeypatch.setattr(dense, "MAX_SCORES", most)
        assert torch.allclose(attend_all(*call), expected, atol=1e-6)
        assert len(seen) > 1 and max(seen) <= limit
