"""Loads a model folder or hub id: the model, its tokenizer, and the card that describes it to the API."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.distributed import DistributedConfig

from common.wire import ModelCard
from worker.device import choose_device, use_device
from worker.kernels.quantized import Quantization
from worker.kernels.torch_seams import has_fast_bf16
from worker.models.card import check_template, describe
from worker.models.loading_reports import logs_at_debug, reports_weights
from worker.models.missing_weights import check_complete, missing_weights, needed_for_text
from worker.models.packed_weights import check_packing, check_unpacked
from worker.models.rope import fix_frequencies
from worker.models.transformers_seams import attend_with_softcap
from worker.models.vision import ImageProcessor, image_processor, is_vision_model
from worker.progress import OnProgress

logger = logging.getLogger(__name__)

FP8_KV = "fp8"  # of OMNI_KV_DTYPE
SMALL_MODEL_PARAMETERS = 50_000_000  # with fewer, float32 on a CPU costs little and makes seeds exact


@dataclass(frozen=True)
class EngineConfig:
    """An operator's settings of an engine; None lets the engine choose for the machine."""

    max_num_seqs: int | None = None  # sequences computed together
    max_model_len: int | None = None  # prompt + completion, tokens
    max_step_tokens: int | None = None  # in one forward pass, of all sequences
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None  # CPU threads
    quantization: Quantization | None = None
    kv_dtype: str = "auto"  # of the KV cache: as the model computes, or "fp8"
    gpu_memory_utilization: float = 0.9  # of the GPU's memory, the share that this process may fill
    speculate: int = 0  # most tokens drafted for a sequence and step; 0: off
    draft_model: str = ""  # a folder or hub id
    overlap: bool | None = None  # start a forward pass before the last one's tokens are read; None: on a GPU
    kv_memory_bytes: int | None = None
    num_ranks: int = 1  # processes that share the model, this one included
    products_table: Path | None = None  # a file for what is measured of a GPU's products; None: measured each time


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and what the engine needs to run it."""

    model: Any
    tokenizer: Tokenizer
    card: ModelCard
    device: torch.device
    dtype: torch.dtype
    images: ImageProcessor | None = None  # of a vision model
    num_passes: int = 1  # that a large step may be split into


@logs_at_debug()
def load(model_path: str, names: tuple[str, ...], config: EngineConfig, on_progress: OnProgress) -> LoadedModel:
    """Load weights and tokenizer onto the chosen device. Raises OSError or ValueError for a folder that is no model."""
    device = choose_device(config.device)
    use_device(device)
    if config.quantization is not None:
        config.quantization.check(config.dtype, device)
    check_kv_dtype(config, device)
    on_progress("tokenizer", 0.0)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model_config = AutoConfig.from_pretrained(model_path)
    has_vision = is_vision_model(model_config)
    if has_vision and config.num_ranks > 1:
        raise ValueError("a vision model runs on one GPU only.")
    check_packing(model_config)
    images = image_processor(model_path) if has_vision else None
    with reports_weights(on_progress):
        model, loading_info = model_class(model_config).from_pretrained(
            model_path,
            dtype="auto",
            use_safetensors=True,
            output_loading_info=True,
            **placement(device, config.num_ranks),
        )
    missing = missing_weights(model, loading_info)
    check_complete(model, needed_for_text(model, missing) if has_vision else missing)
    if missing and images is not None:
        logger.warning("%s is served without images: %s is in no file", model_path, missing[0])
        images = None
    check_unpacked(config.quantization, model)
    num_passes = use_threads(config, model)
    dtype = choose_dtype(config, device, model)
    model = cast(model, dtype).eval().requires_grad_(False)
    card = describe(model_path, names, tokenizer, model_config, model.generation_config, config.max_model_len)
    fix_frequencies(model, card.max_model_len)
    attend_with_softcap(model)
    if images is not None:
        card = images.extend(card)
    check_template(model_path, card)
    logger.info("loaded %s: %s, %s on %s", model_path, card.architecture, dtype, device)
    return LoadedModel(model, Tokenizer.from_str(card.tokenizer), card, device, dtype, images, num_passes)


@logs_at_debug()
def import_family(model_path: str) -> None:
    """Import the code of this model's family, without its weights, for the processes forked from this one."""
    try:
        config = AutoConfig.from_pretrained(model_path, local_files_only=True)
        with torch.device("meta"):
            model_class(config).from_config(config)
    except Exception as error:  # the worker meets the same fault, and its error is explained
        logger.debug("%s is not prepared: %s", model_path, error)


def check_kv_dtype(config: EngineConfig, device: torch.device) -> None:
    """Raises ValueError for an OMNI_KV_DTYPE that cannot be had here."""
    if config.kv_dtype == FP8_KV and device.type != "cuda":
        raise ValueError("OMNI_KV_DTYPE=fp8 needs a GPU: set it to auto, or OMNI_DEVICE to a GPU.")
    if config.kv_dtype == FP8_KV and config.num_ranks > 1:
        raise ValueError("OMNI_KV_DTYPE=fp8 works on one GPU only: set it to auto, or OMNI_TENSOR_PARALLEL to 1.")


def model_class(model_config: Any) -> Any:
    return AutoModelForImageTextToText if is_vision_model(model_config) else AutoModelForCausalLM


def device_map(device: torch.device) -> str | None:
    """For from_pretrained: a GPU is loaded directly, without a copy of the weights in main memory."""
    return None if device.type == "cpu" else str(device)


def placement(device: torch.device, num_ranks: int) -> dict[str, Any]:
    """from_pretrained's arguments for where weights go; of a model that several ranks share, only this rank's."""
    if num_ranks > 1:
        return {"distributed_config": DistributedConfig(tp_size=num_ranks, tp_plan="auto")}
    return {"device_map": device_map(device)}


def choose_threads(config: EngineConfig, model: Any) -> int:
    """Threads of a product: the setting, else torch's default, but one for a small model, where threads would wait."""
    if config.threads is not None:
        return config.threads
    return 1 if count_parameters(model) < SMALL_MODEL_PARAMETERS else torch.get_num_threads()


def use_threads(config: EngineConfig, model: Any) -> int:
    """Set torch's number of threads; returns the number of passes that a large step may be split into.

    A pass runs on one thread, so there are as many as threads that products do not use. Call this once per process
    without a number: torch's default is not known any more when another one has been set.
    """
    num_default, num_threads = torch.get_num_threads(), choose_threads(config, model)
    torch.set_num_threads(num_threads)
    return num_default if config.threads is None and num_threads == 1 else 1


def choose_dtype(config: EngineConfig, device: torch.device, model: Any) -> torch.dtype:
    """The dtype of OMNI_DTYPE, or: on a GPU as saved; on a CPU float32 for small models and where bf16 is slow."""
    name = config.dtype
    if name != "auto":
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{name!r} is not a dtype.")
        return dtype
    if config.quantization is not None:
        return config.quantization.dtype
    saved: torch.dtype = model.dtype
    if getattr(model, "is_quantized", False):
        return saved  # packed weights cannot be cast
    if device.type != "cpu":
        return saved if saved != torch.float32 else torch.bfloat16
    is_fast = saved == torch.bfloat16 and has_fast_bf16()
    return saved if is_fast and count_parameters(model) >= SMALL_MODEL_PARAMETERS else torch.float32


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
    return sum(parameter.numel() for parameter in model.parameters())
