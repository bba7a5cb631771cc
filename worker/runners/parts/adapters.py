"""The adapters of a runner's model: a slot for each, and what they change of its products.

A decoder runner's own products are wrapped, and so are the linear layers of transformers' modules, which run prompts
with images and models without a runner of their own. Nothing is wrapped before the first adapter comes.
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

import torch
from torch import nn

from worker.device import upload
from worker.kernels.adapters.grouped import GroupedChange, GroupedSlots
from worker.kernels.adapters.linear import CurrentSlots
from worker.kernels.adapters.low_rank import NO_ADAPTER, Change, LowRank, TokenSlots
from worker.kernels.adapters.stacked import Columns, StackedChange, StackedSlots
from worker.models.adapters.peft_config import AdapterFault

Shapes = Mapping[str, tuple[int, int]]  # of linear layers, by name: outputs, inputs
Place = tuple[Change, int]  # a product, and which of the linear layers in it
# Makes a runner's own products read adapters; returns the places of their linear layers, by name.
Wrap = Callable[["RunnerAdapters"], dict[str, Place]]


class RunnerAdapters:
    """Passes say which rows they compute; products read that. One thread changes the adapters, between steps."""

    def __init__(
        self, model: Any, shapes: Shapes, dtype: torch.dtype, device: torch.device, wrap: Wrap, *, runs_modules: bool
    ) -> None:
        """`shapes`: of all linear layers that adapters may change; `wrap`: see Wrap, called once.

        `runs_modules`: transformers' modules compute too, those with products of the runner's own included.
        """
        self.current = CurrentSlots()
        self.slots: set[int] = set()
        self.num_layouts = 0  # times that products or their weights' addresses changed: recordings before are void
        self._model = model
        self._shapes = shapes
        self._dtype, self._device = dtype, device
        self._columns = Columns(device)
        self._wrap, self._is_wrapped = wrap, False
        self._runs_modules = runs_modules
        self._own_places: dict[str, Place] = {}  # in the runner's own products
        self._module_places: dict[str, Place] = {}
        self._num_parts: dict[int, int] = {}  # of each product, by its id

    @property
    def on_gpu(self) -> bool:
        return self._device.type != "cpu"

    def put(self, layers: Mapping[str, LowRank]) -> int:
        """The slot of a new adapter. If it fails, nothing of the adapter stays. Raises AdapterFault."""
        self.num_layouts += 1  # first: what fails may have changed some addresses
        if not self._is_wrapped:
            self._own_places = self._wrap(self)
            self._is_wrapped = True
        for name in layers:
            if self._own_places and not self._runs_modules and name not in self._own_places:
                raise AdapterFault(f"changes {name}, which is not computed by itself here; train it without this layer")
        slot = next(number for number in range(1, len(self.slots) + 2) if number not in self.slots)
        if self.on_gpu:
            self._columns.give(slot, max(layer.rank for layer in layers.values()))
        try:
            own = {name: layer for name, layer in layers.items() if name in self._own_places}
            self._put(slot, own, self._own_places)
            self._put_into_modules(slot, {name: layer for name, layer in layers.items() if self._runs_module(name)})
        except BaseException:
            self.drop(slot)
            raise
        self.slots.add(slot)
        return slot

    def drop(self, slot: int) -> None:
        """Nothing runs with this adapter any more."""
        places = [*self._own_places.values(), *self._module_places.values()]
        for change in {id(change): change for change, _ in places}.values():
            change.drop(slot)
        if self.on_gpu:
            self._columns.take(slot)
        self.slots.discard(slot)

    def change_of(self, names: Seq[str]) -> tuple[Change, dict[str, Place]]:
        """A new product's change, of linear layers whose outputs stand side by side, and their places in it."""
        widths, num_in = [self._shapes[name][0] for name in names], self._shapes[names[0]][1]
        change: Change = (
            StackedChange(widths, num_in, self._dtype, self._columns)
            if self.on_gpu
            else GroupedChange(widths, num_in, self._dtype)
        )
        self._num_parts[id(change)] = len(names)
        return change, {name: (change, at) for at, name in enumerate(names)}

    def of_runs(self, runs: Seq[tuple[int, int]]) -> TokenSlots:
        """See StepAdapters."""
        if self.on_gpu:
            return self.of_index(self.numbers_of(runs, sum(num_tokens for _, num_tokens in runs)))
        return GroupedSlots([slot for slot, num_tokens in runs for _ in range(num_tokens)])

    def of_index(self, slots: torch.Tensor) -> TokenSlots:
        """On a GPU: of a tensor [T], which a recorded step reads again each time."""
        return StackedSlots(slots, self._columns)

    def numbers_of(self, runs: Seq[tuple[int, int]], size: int) -> torch.Tensor:
        """On a GPU: the slots of these tokens, one run after the other, and none for more tokens up to `size`."""
        slots = [slot for slot, num_tokens in runs for _ in range(num_tokens)]
        return upload(torch.tensor(slots + [NO_ADAPTER] * (size - len(slots))), self._device)

    def _put(self, slot: int, layers: Mapping[str, LowRank], places: Mapping[str, Place]) -> None:
        changed: dict[int, tuple[Change, list[LowRank | None]]] = {}
        for name, layer in layers.items():
            change, at = places[name]
            _, parts = changed.setdefault(id(change), (change, [None] * self._num_parts[id(change)]))
            parts[at] = layer
        for change, parts in changed.values():
            change.put(slot, parts)

    def _runs_module(self, name: str) -> bool:
        return self._runs_modules or name not in self._own_places

    def _put_into_modules(self, slot: int, layers: Mapping[str, LowRank]) -> None:
        """Hook the modules that no adapter has changed so far."""
        modules = dict(self._model.named_modules()) if layers.keys() - self._module_places.keys() else {}
        for name in layers.keys() - self._module_places.keys():
            change, place = self.change_of([name])
            self._module_places |= place
            modules[name].register_forward_hook(self._hook(name, change))
        self._put(slot, layers, self._module_places)

    def _hook(self, name: str, change: Change) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def add(module: nn.Module, inputs: Any, outputs: torch.Tensor) -> None:
            if (slots := self.current.slots) is None:
                return
            rows = outputs.view(-1, outputs.shape[-1])
            if len(rows) != slots.num_tokens:
                raise RuntimeError(f"{name} computes {len(rows)} of {slots.num_tokens} tokens")
            change.add(inputs[0].flatten(0, -2), rows, slots)

        return add
