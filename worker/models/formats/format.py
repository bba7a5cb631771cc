"""What a format of packed weights tells about its tensors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch


@dataclass(frozen=True, slots=True)
class TensorPart:
    """One of the tensors in a file that together make one tensor of the model; of none, if `tensor` is empty."""

    tensor: str  # its name in an unpacked checkpoint, such as "model.layers.0.mlp.down_proj.weight"
    name: str  # of the part, such as "scales"


NOTHING = TensorPart("", "")  # what is in the file and is not needed, such as scales of activations


class Format(ABC):
    """One way to pack weights; `packing` is the quantization_config of config.json."""

    name: ClassVar[str]

    def __init__(self, packing: Mapping[str, Any]) -> None:
        """Raises ValueError for a variant that cannot be read; the text goes on after "its weights "."""
        self.packing = packing

    @classmethod
    @abstractmethod
    def is_of(cls, packing: Mapping[str, Any]) -> bool:
        """True for a checkpoint of this format."""

    @abstractmethod
    def part_of(self, key: str) -> TensorPart | None:
        """What a tensor in a file is; None for one that is not packed, a bias or a norm for example."""

    @abstractmethod
    def tensor(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The model's tensor, a PackedTensor or a dense one, from its parts by name. `dtype`: that of the model.

        Raises ValueError for parts that do not fit each other.
        """
