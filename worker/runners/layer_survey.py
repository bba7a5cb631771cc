"""A look at a model's layers: what each keeps of a token, what it does to the scores, and which tokens it sees.

The probe's dozen tokens cannot tell a window of thousands from none. So the model's own masks are asked what the last
tokens of the longest sequence would see.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from worker.attention.paged import Form, form_of
from worker.runners.probe import Unsupported, attending_part
from worker.state.kv_cache import LayerShape

LOOK_NAME = "omni_look"  # as transformers knows it
QUERIES_AT = (0.3, 0.6, 1.0)  # of the longest sequence


@dataclass(slots=True)
class Layers:
    """Stands in for attention and for masks, and notes what comes along."""

    max_model_len: int
    found: dict[int, tuple[LayerShape, Form]] = field(default_factory=dict)
    num_layers: int = 0  # that attend or not

    @property
    def places(self) -> dict[int, int]:
        """Where a cache of those that attend holds each of them."""
        return {layer_idx: place for place, layer_idx in enumerate(sorted(self.found))}

    def check_all_attend(self) -> None:
        """Raises Unsupported."""
        if len(self.found) != self.num_layers:
            raise Unsupported(f"only layers {sorted(self.found)} of {self.num_layers} attend")

    @property
    def shapes(self) -> list[LayerShape]:
        return [self.found[layer_idx][0] for layer_idx in sorted(self.found)]

    @property
    def forms(self) -> list[Form]:
        return [self.found[layer_idx][1] for layer_idx in sorted(self.found)]

    @property
    def has_plain_scores(self) -> bool:
        """Whether no layer squeezes its scores or gives them sinks."""
        return all(form.softcap is None and form.sinks is None for form in self.forms)

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """transformers' hook for attention. Raises Unsupported."""
        layer_idx, form = int(module.layer_idx), form_of(query, **kwargs)
        if layer_idx in self.found:
            raise Unsupported("a layer attends twice")
        seen = self.seen_through(form.window, key.device)
        if isinstance(mask, torch.Tensor) and mask.shape == seen.shape and not torch.equal(mask, seen):
            raise Unsupported(f"layer {layer_idx} sees other tokens than the last {form.window or 'ones, all of them'}")
        self.found[layer_idx] = LayerShape(key.shape[1], key.shape[3], value.shape[3]), form
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None

    def mask(self, *, mask_function: Callable[..., torch.Tensor], device: torch.device, **_: Any) -> torch.Tensor:
        """transformers' hook for masks: [1, 1, queries, max_model_len], whether a query sees a key."""
        queries, keys = self.positions(device)
        first = torch.zeros(1, 1, dtype=torch.long, device=device)  # sequence, and head
        return mask_function(first, first, queries, keys).expand(len(queries), keys.shape[1])[None, None]

    def seen_through(self, window: int | None, device: torch.device) -> torch.Tensor:
        """What PagedAttention would let them see."""
        queries, keys = self.positions(device)
        seen = keys <= queries
        return (seen if window is None else seen & (keys > queries - window))[None, None]

    def positions(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of the queries that are looked at, [queries, 1], and of all keys, [1, max_model_len]."""
        queries = [int(part * (self.max_model_len - 1)) for part in QUERIES_AT]
        keys = torch.arange(self.max_model_len, device=device)
        return torch.tensor(queries, device=device)[:, None], keys[None]


@torch.inference_mode()
def look_at_layers(model: Any, max_model_len: int) -> Layers:
    """By one forward pass, which changes how the model attends. Raises Unsupported if PagedAttention cannot do it."""
    layers = Layers(max_model_len)
    AttentionInterface.register(LOOK_NAME, layers.attend)
    AttentionMaskInterface.register(LOOK_NAME, layers.mask)
    attending_part(model).set_attn_implementation(LOOK_NAME)
    device = next(model.parameters()).device
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    except Unsupported:
        raise
    except Exception as error:  # any model at all may come along here
        raise Unsupported(f"its forward pass does not take our attention ({type(error).__name__}: {error})") from error
    layers.num_layers = model.config.get_text_config().num_hidden_layers
    return layers
