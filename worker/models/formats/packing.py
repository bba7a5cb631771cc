"""Checkpoints with packed (quantized) weights: what their files say of the packing, and the refusal of some."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from transformers.quantizers import AutoHfQuantizer

from worker.kernels.quantized import Quantization
from worker.models.model_files import file_of

MODELOPT_FILE = "hf_quant_config.json"  # of checkpoints whose config.json does not tell


def packing_of(model_path: str, model_config: Any) -> Mapping[str, Any] | None:
    """The quantization_config of config.json as a dict; None for weights that are not packed."""
    for part in (model_config, model_config.get_text_config()):
        if (packing := getattr(part, "quantization_config", None)) is not None:
            return dict(packing if isinstance(packing, Mapping) else packing.to_dict())
    path = modelopt_file(model_path)
    return None if path is None else {"quant_method": "modelopt", **json.loads(path.read_text())["quantization"]}


def modelopt_file(model_path: str) -> Path | None:
    """MODELOPT_FILE of a folder, or of a hub id, from which it is fetched; None if there is none."""
    if Path(model_path).exists():
        return file_of(model_path, MODELOPT_FILE)
    try:
        return Path(hf_hub_download(model_path, MODELOPT_FILE))
    except (OSError, ValueError, HfHubHTTPError):  # no such file, or no hub: transformers says which
        return None


def check_packing(packing: Mapping[str, Any] | None) -> None:
    """Raises ValueError for a packing that transformers does not know: it would report all of these weights missing."""
    if packing is not None and not AutoHfQuantizer.supports_quant_method(packing):
        raise ValueError(
            f"its weights are packed by {method_of(packing)!r}, which cannot be read; choose unpacked ones."
        )


def check_unpacked(
    quantization: Quantization | None, packing: Mapping[str, Any] | None, *, is_sparse: bool = False
) -> None:
    """Raises ValueError where OMNI_QUANTIZE would pack weights that are packed already, and are no routed experts'."""
    if quantization is not None and packing is not None and not is_sparse:
        raise ValueError(
            f"OMNI_QUANTIZE={quantization.name} is for weights that are not packed, these are by "
            f"{method_of(packing)!r}; leave it empty."
        )


def method_of(packing: Mapping[str, Any]) -> str:
    """The packing's name."""
    name = packing.get("quant_method", "nobody that they name")
    return str(getattr(name, "value", name))
