"""Loads a checkpoint with packed weights: transformers builds the model and names its tensors, a Format reads them."""

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from worker.kernels.experts.mapped import MappedExperts
from worker.kernels.experts.swap import product_of
from worker.kernels.heap import freed_memory_returned
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import check_parts
from worker.models.formats.format import NOTHING, Format
from worker.models.model_files import file_of
from worker.models.transformers_seams import without_reservation

SHARED = "distributed_config"  # the argument of from_pretrained for several ranks
CODES = frozenset({"F8_E4M3", "F8_E5M2", "F4", "I8", "U8", "I32"})  # types of safetensors
MAX_DENSE = 8  # tensors at a time


class UnreadTensor(ABC):
    """A tensor that is read when somebody takes it: `tensor[...]`. It may be a PackedTensor."""

    @abstractmethod
    def __getitem__(self, index: Any) -> torch.Tensor:
        """`index` is `...`, or a slice of the experts of a layer."""


class LazyTensor(UnreadTensor):
    """A tensor that is read, and packed in our way, when somebody takes it: `lazy[...]`."""

    def __init__(self, name: str, form: Format, parts: Mapping[str, Any], dtype: torch.dtype) -> None:
        self.name = name
        self._form = form
        self._parts = parts  # slices of files, by name of part
        self._dtype = dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        try:
            tensor = self._form.tensor({name: part[index] for name, part in self._parts.items()}, self._dtype)
            if isinstance(tensor, PackedTensor):
                check_parts(tensor.weights)
            elif tensor.dtype.itemsize == 1 or not tensor.is_floating_point():
                raise ValueError(f"it is {str(tensor.dtype).removeprefix('torch.')}, and its scales are in no file")
            return tensor
        except (KeyError, ValueError, RuntimeError) as fault:
            why = f"{fault} is in no file" if isinstance(fault, KeyError) else str(fault)
            raise ValueError(f"its {self.name} is not packed as {self._form.name} is: {why}") from fault


class DenseTensor:
    """A packed tensor of which transformers reads parts, dense: for ranks that share a model."""

    def __init__(self, name: str, read: Callable[[str], torch.Tensor]) -> None:
        self.name = name
        self._read = read

    def get_shape(self) -> list[int]:
        return list(self._read(self.name).shape)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._read(self.name)[index]


def dense_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same with DenseTensors for UnreadTensors. The last few stay dense, as many parts of one are read in turn."""

    @lru_cache(maxsize=MAX_DENSE)
    def read(name: str) -> torch.Tensor:
        tensor: torch.Tensor = tensors[name][...]
        return tensor.dense() if isinstance(tensor, PackedTensor) else tensor

    return {
        name: DenseTensor(name, read) if isinstance(tensor, UnreadTensor) else tensor
        for name, tensor in tensors.items()
    }


def load_packed(
    family: Any, model_path: str, model_config: Any, form: Format, **placement: Any
) -> tuple[Any, dict[str, Any]]:
    """The model with PackedTensors as weights, and from_pretrained's loading info. `family`: transformers' auto class.

    Raises OSError or ValueError.
    """
    dtype = dtype_of(model_config)
    with ExitStack() as files:
        tensors = named_tensors(dict(opened(model_path, files)), form, dtype)
        check_plain(tensors, form)
        model, info = load_tensors(family, model_config, tensors, dtype, **placement)
    name_model(model, model_path)
    return model, info


def name_model(model: Any, model_path: str) -> None:
    """As from_pretrained does with a model that it reads from this folder."""
    model.config.name_or_path = model_path
    if file_of(model_path, "generation_config.json") is not None:
        model.generation_config = GenerationConfig.from_pretrained(model_path)


def load_tensors(
    family: Any, model_config: Any, tensors: Mapping[str, Any], dtype: torch.dtype, **placement: Any
) -> tuple[Any, dict[str, Any]]:
    """The model of these tensors, and from_pretrained's loading info. Ranks that share a model get dense weights."""
    config, model_class = (
        unpacked_config(model_config),
        type(on_meta(family, model_config)),
    )  # an auto class wants a path
    with without_reservation(), freed_memory_returned():
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dense_tensors(tensors) if SHARED in placement else tensors,
            dtype=dtype,
            output_loading_info=True,
            **placement,
        )
    return model, info


def on_meta(family: Any, model_config: Any, **options: Any) -> Any:
    """The model without its numbers."""
    with torch.device("meta"):
        return family.from_config(unpacked_config(model_config), **options)


def opened(model_path: str, files: ExitStack) -> Iterator[tuple[str, Any]]:
    """The tensors of all files, by name, not read yet. `files` closes them. Raises OSError if there are none."""
    index, single = file_of(model_path, SAFE_WEIGHTS_INDEX_NAME), file_of(model_path, SAFE_WEIGHTS_NAME)
    if single is None and index is None:
        raise OSError(f"there is neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME} in {model_path}.")
    names = [SAFE_WEIGHTS_NAME]
    if single is None and index is not None:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in names:
        path = file_of(model_path, name)
        if path is None:
            raise OSError(f"{name} is missing, though {SAFE_WEIGHTS_INDEX_NAME} names it. Copy or download it again.")
        file = files.enter_context(safe_open(path, framework="pt"))
        for key in file.keys():
            yield key, file.get_slice(key)


def named_tensors(tensors: Mapping[str, Any], form: Format, dtype: torch.dtype) -> dict[str, Any]:
    """The tensors under their names in an unpacked checkpoint: packed ones as LazyTensors, others as they are."""
    found: dict[str, Any] = {}
    packed: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, tensor in tensors.items():
        part = form.part_of(key)
        if part is None:
            found[key] = tensor
        elif part != NOTHING:
            packed[part.tensor][part.name] = tensor
    return found | {name: LazyTensor(name, form, parts, dtype) for name, parts in packed.items()}


def check_plain(tensors: Mapping[str, Any], form: Format) -> None:
    """Raises ValueError for a matrix of codes that the format does not know: they would be taken for numbers."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, UnreadTensor) and tensor.get_dtype() in CODES and len(tensor.get_shape()) > 1:
            raise ValueError(f"its {name} ({tensor.get_dtype()}) is packed in a way that {form.name} does not have.")


def check_numbers(model_path: str) -> None:
    """Raises ValueError if a checkpoint that names no packing has fp8: transformers takes codes for the numbers."""
    with ExitStack() as files:
        for name, tensor in opened(model_path, files):
            if tensor.get_dtype().startswith("F8") and len(tensor.get_shape()) > 1:
                raise ValueError(
                    f"its {name} is in fp8, and config.json has no quantization_config that tells of scales."
                )


def unpacked_config(model_config: Any) -> Any:
    """A copy that does not tell transformers of the packing."""
    config = deepcopy(model_config)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        if getattr(part, "quantization_config", None) is not None:
            del part.quantization_config
    return config


def dtype_of(model_config: Any) -> torch.dtype:
    """What the checkpoint computes in: the config's type, else bfloat16."""
    found = getattr(model_config, "dtype", None) or getattr(model_config.get_text_config(), "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.bfloat16


def weight_bytes(model: Any) -> dict[str, int]:
    """The bytes that a model's weights take, by kind: of PackedTensors their form, else the type. Shared ones once."""
    sizes: dict[str, int] = defaultdict(int)
    for parameter in model.parameters():
        if isinstance(parameter, PackedTensor):
            sizes[parameter.weights.kind] += parameter.weights.num_bytes
        else:
            sizes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel() * parameter.element_size()
    for product in stored_products(model):
        sizes[product.form.up.kind] += product.num_bytes
    return dict(sizes)


def sizes(model: Any) -> str:
    """The memory of a model's weights, for the log: "11.9 GiB of weights: mxfp4 10.6, bfloat16 1.3"."""
    found = weight_bytes(model)
    each = ", ".join(f"{kind} {size / 2**30:.2f}" for kind, size in found.items())
    return f"{sum(found.values()) / 2**30:.2f} GiB of weights: {each}"


def has_packed(model: Any) -> bool:
    """True if any weight is a PackedTensor, or experts stand in files."""
    has_stored = next(stored_products(model), None) is not None
    return has_stored or any(isinstance(parameter, PackedTensor) for parameter in model.parameters())


def stored_products(model: Any) -> Iterator[MappedExperts]:
    """The experts that stand in files (worker/models/experts)."""
    products = (product_of(module) for module in model.modules())
    own = (getattr(product, "experts", product) for product in products)  # behind those of a GPU
    return (product for product in own if isinstance(product, MappedExperts))


def mapped_bytes(model: Any) -> int:
    """Of the files that experts stand in: the system counts them as available memory, and they are needed."""
    return sum(product.num_bytes for product in stored_products(model))


def num_stored(model: Any) -> int:
    """The parameters of experts that stand in files."""
    return sum(product.num_numbers for product in stored_products(model))
