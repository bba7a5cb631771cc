"""What a model computes in."""

from typing import TYPE_CHECKING, Any

import torch

from worker.kernels.torch_seams import has_fast_bf16
from worker.models.formats.reader import num_stored

if TYPE_CHECKING:
    from worker.models.loader import EngineConfig

SMALL_MODEL_PARAMETERS = 50_000_000  # with fewer, float32 on a CPU costs little and makes seeds exact
SMALL_PACKED_PARAMETERS = 250_000_000  # about SMALL_BYTES in four bits; in bf16 their likeliest tokens would often tie


def choose_dtype(config: "EngineConfig", device: torch.device, model: Any, *, is_packed: bool) -> torch.dtype:
    """The dtype of OMNI_DTYPE, or: on a GPU as saved; on a CPU float32 for small models and where bf16 is slow.

    `is_packed`: in its files.
    """
    saved: torch.dtype = model.dtype
    if not getattr(model, "is_quantized", False):
        return dtype_for(config, device, saved, count_parameters(model), is_packed=is_packed)
    if config.dtype not in ("auto", str(saved).removeprefix("torch.")):  # a library's packed weights cannot be cast
        raise ValueError(f"its packed weights compute in {saved}, not in OMNI_DTYPE={config.dtype}; set it to auto.")
    return saved


def dtype_for(
    config: "EngineConfig", device: torch.device, saved: torch.dtype, num_parameters: int, *, is_packed: bool
) -> torch.dtype:
    """choose_dtype() for weights that are not loaded yet."""
    name = config.dtype
    if name != "auto":
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{name!r} is not a dtype.")
        return dtype
    if config.quantization is not None:
        return config.quantization.dtype
    if device.type != "cpu":
        return saved if saved != torch.float32 else torch.bfloat16
    is_fast = (saved == torch.bfloat16 or is_packed) and has_fast_bf16()
    most_small = SMALL_PACKED_PARAMETERS if is_packed else SMALL_MODEL_PARAMETERS
    return torch.bfloat16 if is_fast and num_parameters >= most_small else torch.float32


def cast(model: Any, dtype: torch.dtype) -> Any:
    """The model with its weights in `dtype`.

    Buffers that it computed from its configuration keep their type: rotary frequencies in bf16 would turn positions in
    the thousands by whole radians.
    """
    if model.dtype == dtype:
        return model
    saved = model.state_dict().keys()
    computed = {name: buffer for name, buffer in model.named_buffers() if name not in saved}
    model = model.to(dtype)
    for name, buffer in computed.items():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, buffer)
    return model


def count_parameters(model: Any) -> int:
    """With those of experts that stand in files."""
    total: int = num_stored(model) + sum(parameter.numel() for parameter in model.parameters())
    return total
