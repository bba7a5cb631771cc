"""Hidden states that a forward pass hands over: the inputs of heads that draft (worker/drafting/heads.py).

A layer's number counts the layers before its hidden states: 0 is the embedding, i the sum after i of n layers, n the
input of the final norm, n + 1 its output.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any

import torch

from worker.device import upload
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


class StepFeatures:
    """The features of a step's tokens, by row."""

    def __init__(self, features: torch.Tensor, rows: Seq[ScheduledSequence]) -> None:
        """`features` [T, width * layers] of the rows one after another; padding may follow."""
        stops = list(accumulate(row.num_inputs for row in rows))
        self._places = {id(row): slice(stop - row.num_inputs, stop) for row, stop in zip(rows, stops, strict=True)}
        self._features = features

    def of(self, row: ScheduledSequence) -> torch.Tensor | None:
        """[inputs of the row, width * layers], valid until the next step; None for a row that was not in this one."""
        place = self._places.get(id(row))
        return None if place is None else self._features[place]

    def copied(self, rows: Seq[tuple[ScheduledSequence, int]]) -> list[torch.Tensor]:
        """Of each row the features of so many first inputs, in one copy. The rows were in the step."""
        places = [
            place for row, num in rows for place in range(self._places[id(row)].start, self._places[id(row)].stop)[:num]
        ]
        index = upload(torch.tensor(places), self._features.device)
        return list(torch.split(self._features[index], [num for _, num in rows]))

    def has(self, row: ScheduledSequence) -> bool:
        return id(row) in self._places
