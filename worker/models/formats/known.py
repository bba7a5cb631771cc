"""The formats of packed weights that are read here. Others are left to transformers and its libraries."""

from collections.abc import Mapping
from typing import Any

from worker.models.formats.awq import Awq
from worker.models.formats.compressed import CompressedTensors
from worker.models.formats.format import Format
from worker.models.formats.fp8_blocks import Fp8Blocks
from worker.models.formats.gptq import Gptq
from worker.models.formats.mxfp4 import Mxfp4
from worker.models.formats.nvfp4 import ModelOpt

FORMATS: tuple[type[Format], ...] = (Fp8Blocks, CompressedTensors, Gptq, Awq, Mxfp4, ModelOpt)


def format_of(packing: Mapping[str, Any] | None) -> Format | None:
    """The format of a checkpoint with this quantization_config; None for unpacked ones and for other formats.

    Raises ValueError, in a sentence, for a variant of a format that cannot be read.
    """
    if packing is None:
        return None
    for kind in FORMATS:
        if kind.is_of(packing):
            try:
                return kind(packing)
            except ValueError as fault:
                raise ValueError(f"its weights {fault}") from fault
    return None
