"""A tensor of packed weights that stands in a module's `weight`, so that every model's own code runs with it.

What transformers does while it loads (stack the experts, join gate and up, move, cast) keeps it packed; any other
operator computes with the dense matrix. Runners take the `Weights` out and multiply by kernels.
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from types import MappingProxyType
from typing import Any

import torch

from worker.kernels.packed.weights import Weights, can_join, joined_weights, stacked_weights

ops = torch.ops.aten


class PackedTensor(torch.Tensor):
    """A matrix [out, in], or several, [..., out, in]; `is_turned`: its shape is [..., in, out]."""

    weights: Weights
    is_turned: bool

    @staticmethod
    def __new__(cls, weights: Weights, is_turned: bool = False) -> "PackedTensor":
        *lead, num_out, num_in = weights.shape
        shape = (*lead, num_in, num_out) if is_turned else (*lead, num_out, num_in)
        with torch.inference_mode(False):  # a view made in inference mode has to be of the kind of its base
            tensor: PackedTensor = torch.Tensor._make_wrapper_subclass(
                cls, shape, dtype=weights.dtype, device=weights.codes.device, requires_grad=False
            )
        tensor.weights = weights
        tensor.is_turned = is_turned
        return tensor

    def __tensor_flatten__(self) -> tuple[list[str], tuple[Weights, bool]]:
        """torch's protocol of wrappers; with it, Module.to() replaces the whole tensor."""
        return [], (self.weights, self.is_turned)

    @staticmethod
    def __tensor_unflatten__(_: Any, found: tuple[Weights, bool], *__: Any) -> "PackedTensor":
        return PackedTensor(*found)

    def dense(self) -> torch.Tensor:
        """The numbers, as an ordinary tensor."""
        numbers = self.weights.dense()
        return numbers.transpose(-1, -2) if self.is_turned else numbers

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it as a function
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if (found := KEPT_PACKED[func](*args, **named) if func in KEPT_PACKED else None) is not None:
            return found
        if (found := func.decompose(*args, **named)) is not NotImplemented:  # in inference mode, `to` comes here whole
            return found
        return func(*map(unpacked, args), **{name: unpacked(value) for name, value in named.items()})


def unpacked(value: Any) -> Any:
    """An operator's argument with dense tensors in place of packed ones."""
    if isinstance(value, PackedTensor):
        return value.dense()
    if isinstance(value, (list, tuple)):
        return type(value)(map(unpacked, value))
    return value


# Each returns None where the result cannot stay packed.


def same(tensor: PackedTensor, *_: Any, **__: Any) -> PackedTensor:
    return PackedTensor(tensor.weights, tensor.is_turned)


def moved(
    tensor: PackedTensor, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
) -> PackedTensor | None:
    if dtype is not None and not dtype.is_floating_point:
        return None
    return PackedTensor(tensor.weights.to(device, dtype), tensor.is_turned)


def turned(tensor: PackedTensor) -> PackedTensor:
    return PackedTensor(tensor.weights, not tensor.is_turned)


def swapped(tensor: PackedTensor, first: int, second: int) -> PackedTensor | None:
    last_two = {tensor.dim() - 1, tensor.dim() - 2}
    return turned(tensor) if {first % tensor.dim(), second % tensor.dim()} == last_two else None


def selected(tensor: PackedTensor, dim: int, index: int) -> PackedTensor | None:
    if dim % tensor.dim() != 0 or tensor.dim() < 3:
        return None
    return PackedTensor(tensor.weights.map_parts(lambda part: part[index]), tensor.is_turned)


def stacked(tensors: Seq[Any], dim: int = 0) -> PackedTensor | None:
    weights = weights_of(tensors, is_turned=False)
    return PackedTensor(stacked_weights(weights)) if weights and dim == 0 and can_join(weights) else None


def concatenated(tensors: Seq[Any], dim: int = 0) -> PackedTensor | None:
    weights = weights_of(tensors, is_turned=False)
    if not weights or dim % tensors[0].dim() != tensors[0].dim() - 2 or not can_join(weights):
        return None
    return PackedTensor(joined_weights(weights))


def sliced(
    tensor: PackedTensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> PackedTensor | None:
    size = tensor.shape[dim]
    first, last = slice(start, end).indices(size)[:2]
    if (first, last, step) == (0, size, 1):
        return same(tensor)
    if tensor.is_turned or step != 1:
        return None
    if dim % tensor.dim() == tensor.dim() - 2 and (tensor.weights.kind != "fp8_blocks" or first % 128 == 0):
        return PackedTensor(tensor.weights.rows(first, last))
    if dim % tensor.dim() == 0 and tensor.dim() > 2:
        return PackedTensor(tensor.weights.map_parts(lambda part: part[first:last]))
    return None


def split(tensor: PackedTensor, size: int, dim: int = 0) -> list[PackedTensor] | None:
    parts = [sliced(tensor, dim, start, start + size) for start in range(0, tensor.shape[dim], size)]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None


def parted(tensor: PackedTensor, dim: int = 0) -> list[PackedTensor] | None:
    parts = [selected(tensor, dim, index) for index in range(tensor.shape[dim])]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None


def embedded(tensor: PackedTensor, ids: torch.Tensor, *_: Any) -> torch.Tensor | None:
    """The rows `ids` [...] -> [..., in]."""
    if tensor.is_turned or tensor.dim() != 2 or tensor.weights.kind == "fp8_blocks":
        return None
    rows = tensor.weights.map_parts(lambda part: part[ids.flatten()])
    return rows.dense().view(*ids.shape, tensor.shape[1])


def weights_of(tensors: Seq[Any], *, is_turned: bool) -> list[Weights]:
    """Empty unless all of them are packed, and in the same way round."""
    found = [one.weights for one in tensors if isinstance(one, PackedTensor) and one.is_turned == is_turned]
    return found if len(found) == len(tensors) else []


KEPT_PACKED: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        ops.detach.default: same,
        ops.alias.default: same,
        ops.clone.default: same,
        ops._to_copy.default: moved,
        ops.t.default: turned,
        ops.transpose.int: swapped,
        ops.select.int: selected,
        ops.stack.default: stacked,
        ops.cat.default: concatenated,
        ops.slice.Tensor: sliced,
        ops.split.Tensor: split,
        ops.unbind.int: parted,
        ops.embedding.default: embedded,
    }
)
