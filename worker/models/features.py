"""Hidden states that a forward pass hands over: the inputs of heads that draft (worker/drafting/heads.py).

A layer's number counts the layers before its hidden states: 0 is the embedding, i the sum after i of n layers, n the
input of the final norm, n + 1 its output.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from worker.state.scheduled_sequence import ScheduledSequence


class FeatureTap:
    """Keeps the hidden states of some layers of one forward pass, side by side in one tensor."""

    def __init__(self, layers: tuple[int, ...], num_layers: int) -> None:
        """`num_layers`: of the model."""
        self.layers = layers
        self.needs_all_tokens = max(layers, default=0) >= num_layers  # of the last layer too
        self.features: torch.Tensor | None = None  # [T, width * len(layers)]

    def take(self, layer: int, hidden: torch.Tensor) -> None:
        """Copy `hidden` [T, width] where it is wanted: later layers may add to it in place."""
        if layer not in self.layers:
            return
        num_tokens, width = hidden.shape
        if self.features is None:
            self.features = hidden.new_empty(num_tokens, len(self.layers) * width)
        for at, wanted in enumerate(self.layers):
            if wanted == layer:
                self.features[:, at * width : (at + 1) * width] = hidden

    @contextmanager
    def hooked(self, model: Any) -> Iterator[None]:
        """While active, a forward pass of a transformers model over [1, T] tokens hands over its hidden states."""
        with ExitStack() as hooks:
            for layer in set(self.layers):
                decoder = model.get_decoder()
                num_layers = len(decoder.layers)
                module = decoder.layers[layer] if layer < num_layers else decoder.norm
                hooks.callback(self._hook(module, layer, is_output=layer > num_layers).remove)
            yield

    def _hook(self, module: Any, layer: int, *, is_output: bool) -> Any:
        if is_output:
            return module.register_forward_hook(lambda _, args, output: self.take(layer, output[0]))
        return module.register_forward_pre_hook(
            lambda _, args, kwargs: self.take(layer, (args or (kwargs["hidden_states"],))[0][0]), with_kwargs=True
        )


def in_asked_order(features: torch.Tensor, ordered: Seq[ScheduledSequence], order: Seq[int]) -> torch.Tensor:
    """Features [T, width] of the rows before they were sorted; `features` are those of `ordered`, padding may follow.

    `order`: for each sorted row, its place among the rows before.
    """
    starts, start = {}, 0
    for row, asked_at in zip(ordered, order, strict=True):
        starts[asked_at] = range(start, start + row.num_inputs)
        start += row.num_inputs
    if list(order) == sorted(order):
        return features[:start]
    places = [place for asked_at in sorted(starts) for place in starts[asked_at]]
    return features[torch.tensor(places, device=features.device)]
