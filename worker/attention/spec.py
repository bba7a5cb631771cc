"""The properties of a layer's attention."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """How one layer of a model attends."""

    scale: float
    window: int | None = None  # only this many last keys are attended to, the query's own included
    softcap: float | None = None  # scores are squeezed into (-softcap, softcap)
    sinks: torch.Tensor | None = None  # [heads]: a score per head that takes a share of the weights and adds no value

    @property
    def has_plain_scores(self) -> bool:
        return self.softcap is None and self.sinks is None


def attention_spec(
    query: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> AttentionSpec:
    """From the keyword arguments that transformers' models pass to an attention implementation."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return AttentionSpec(scale, sliding_window, softcap, s_aux)
