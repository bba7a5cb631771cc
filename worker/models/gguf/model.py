"""A model in GGUF files: everything that a folder's config.json, tokenizer and safetensors are for other models."""

from collections import Counter
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig

from common.model.fault import FolderFault
from common.model.gguf_files import gguf_files, headers_of
from common.model.gguf_header import GgufHeader, tensors_of
from worker.models.formats.reader import load_tensors, on_meta
from worker.models.gguf.config import FILE_TYPES, configuration, family_of, generation_config
from worker.models.gguf.tensors import PLAIN, GgufTensor, check_tensors, factors_of, model_tensors
from worker.models.gguf.tokenizer import tokenizer_of


class GgufModel:
    """The files' headers are read once; tensors when they are taken."""

    def __init__(self, headers: tuple[GgufHeader, ...]) -> None:
        self._headers = headers
        self._first = headers[0]
        self._family = family_of(self._first)

    @cached_property
    def config(self) -> Any:
        stored = list(self._stored())
        found = configuration(self._first, {tensor.name: tensor.shape for tensor in stored}, factors_of(stored))
        found.dtype = self.dtype
        if self.has_codes:
            found.quantization_config = {"quant_method": "gguf", "file_type": self.file_type}
        return found

    @property
    def has_codes(self) -> bool:
        return any(tensor.type_name not in PLAIN for tensor in self._stored())

    @property
    def file_type(self) -> str:
        """As llama.cpp names it; for a file that does not say it, the type that most bytes have."""
        sizes: Counter[str] = Counter()
        for tensor in self._stored():
            sizes[tensor.type_name] += tensor.num_bytes
        return FILE_TYPES.get(self._first.metadata.get("general.file_type", -1), sizes.most_common(1)[0][0])

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16, or float16 for a file of nothing else: quantized files say none."""
        types = {tensor.type_name for tensor in self._stored()} - {"F32"}
        return {frozenset({"F16"}): torch.float16, frozenset(): torch.float32}.get(frozenset(types), torch.bfloat16)

    @property
    def num_parameters(self) -> int:
        return sum(torch.Size(tensor.shape).numel() for tensor in self._stored())

    def tokenizer(self) -> Any:
        return tokenizer_of(self._first)

    @property
    def generation_config(self) -> GenerationConfig:
        return generation_config(self._first)

    def load(self, family: Any, dtype: torch.dtype, **placement: Any) -> tuple[Any, dict[str, Any]]:
        """The model in `dtype`, and from_pretrained's loading info. `family`: transformers' auto class."""
        self.check(on_meta(family, self.config))
        model, info = load_tensors(family, self.config, self._tensors(dtype), dtype, **placement)
        model.config.name_or_path = str(self._first.path)
        model.generation_config = self.generation_config
        return model, info

    def check(self, model: Any) -> None:
        """Raises ValueError if the files lack tensors of this model, or have them in other shapes."""
        check_tensors(self._tensors(self.dtype), model, self._family, self._first.path.name)

    def _tensors(self, dtype: torch.dtype) -> dict[str, GgufTensor]:
        return model_tensors(self._stored(), self._family, self.config, dtype)

    def _stored(self) -> Any:
        return tensors_of(self._headers)


def gguf_model(model_path: str) -> GgufModel | None:
    """The GGUF model that this names; None for a model of another form. Raises ValueError for files with a fault."""
    try:
        files = gguf_files(model_path)
        return GgufModel(headers_of(files)) if files else None
    except FolderFault as fault:
        raise ValueError(f"{fault}.") from fault
