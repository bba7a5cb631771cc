"""Reads the tensors of a file through a format, without a model."""

from collections.abc import Mapping

import torch

from worker.models.formats.format import Format
from worker.models.formats.reader import LazyTensor, named_tensors


def numbers_of(form: Format, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's tensors, in float32, by name."""
    named = named_tensors(parts, form, torch.float32)
    return {name: tensor[...] if isinstance(tensor, LazyTensor) else tensor for name, tensor in named.items()}
