"""Checkpoints with packed (quantized) weights: the kinds that can be read, and the refusal of others."""

from typing import Any

from transformers.quantizers import AutoHfQuantizer

from worker.kernels.quantized import Quantization


def check_packing(model_config: Any) -> None:
    """Raises ValueError for a packing that transformers does not know: it would report all of these weights missing."""
    packing = getattr(model_config, "quantization_config", None)
    if packing is not None and not AutoHfQuantizer.supports_quant_method(packing):
        raise ValueError(
            f"its weights are packed by {method_of(packing)!r}, which cannot be read; choose unpacked ones."
        )


def check_unpacked(quantization: Quantization | None, model: Any) -> None:
    """Raises ValueError where OMNI_QUANTIZE would pack weights that are packed already."""
    packing = getattr(model.config, "quantization_config", None)
    if quantization is not None and packing is not None:
        raise ValueError(
            f"OMNI_QUANTIZE={quantization.name} is for weights that are not packed, these are by "
            f"{method_of(packing)!r}; leave it empty."
        )


def method_of(packing: Any) -> str:
    """The packing's name, from the dict of config.json or from transformers' object."""
    name = packing["quant_method"] if isinstance(packing, dict) else packing.quant_method
    return str(getattr(name, "value", name))
