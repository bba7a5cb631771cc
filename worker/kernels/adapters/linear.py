"""A matrix product with adapters beside it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from worker.kernels.adapters.low_rank import Change, TokenSlots
from worker.kernels.linear import Linear


class CurrentSlots(threading.local):
    """The slots of the pass that this thread computes; None in one without adapters. Passes may run side by side."""

    slots: TokenSlots | None = None

    @contextmanager
    def during(self, slots: TokenSlots | None) -> Iterator[None]:
        """Within this, products add the adapters' changes."""
        self.slots = slots
        try:
            yield
        finally:
            self.slots = None

    def narrow(self, selected: torch.Tensor) -> None:
        """The rest of the pass computes these tokens only."""
        if self.slots is not None:
            self.slots = self.slots.at(selected)


class AdaptedLinear:
    """`linear`, and beside it what adapters change of it."""

    def __init__(self, linear: Linear, change: Change, current: CurrentSlots) -> None:
        self.linear = linear
        self.change = change
        self.current = current

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.linear(inputs)
        if (slots := self.current.slots) is not None:
            self.change.add(inputs, outputs, slots)
        return outputs


def without_adapters(product: Any) -> Any:
    """The product alone."""
    return product.linear if isinstance(product, AdaptedLinear) else product
