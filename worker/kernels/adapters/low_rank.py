"""Low-rank changes of linear layers, y += (x A^T) B^T, and the tokens of a pass that get them."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol

import torch

NO_ADAPTER = 0  # the slot of tokens that the base alone computes


@dataclass(frozen=True, slots=True)
class LowRank:
    """An adapter's change of one linear layer; its scale is part of `up`."""

    down: torch.Tensor  # [rank, in]
    up: torch.Tensor  # [rank, out]

    @property
    def rank(self) -> int:
        return len(self.down)


class TokenSlots(Protocol):
    """The slot of each token of a forward pass."""

    @property
    def num_tokens(self) -> int: ...

    def at(self, selected: torch.Tensor) -> "TokenSlots":
        """Of these tokens only, `selected` [S]."""


class Change(Protocol):
    """What all adapters change of one product."""

    def put(self, slot: int, parts: Seq[LowRank | None]) -> None:
        """Set an adapter's change: of each linear layer whose outputs stand side by side in the product."""

    def drop(self, slot: int) -> None:
        """Forget an adapter; there may be none in this slot."""

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor, slots: Any) -> None:
        """Add to `outputs` [T, out], in place, what the tokens' adapters make of `inputs` [T, in].

        `slots`: of the kind that is made for this one. Rows beyond its tokens are padding.
        """
