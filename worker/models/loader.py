"""A model folder (or hub id) to a model in memory, its tokenizer, and the card that tells the API about it."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.distributed import DistributedConfig
from transformers.quantizers import AutoHfQuantizer

from common.wire import ModelCard
from worker.device import choose_device, use_device
from worker.kernels.quantized import check_fp8
from worker.models.card import check_template, describe
from worker.models.missing_weights import check_complete, missing_weights, needed_for_text
from worker.models.rope import hold_frequencies
from worker.models.transformers_log import said_at_debug
from worker.models.vision import ImageReader, reader_of, sees
from worker.progress import OnProgress, telling_weights

logger = logging.getLogger(__name__)

FOUND_THREADS = torch.get_num_threads()  # before anybody set another number
SMALL_MODEL_PARAMETERS = 50_000_000  # below this, float32 on a CPU costs little and makes seeds exact


@dataclass(frozen=True)
class EngineConfig:
    """What an operator may turn; None lets the engine choose for the machine."""

    max_num_seqs: int | None = None  # sequences computed together
    max_model_len: int | None = None  # prompt + completion, tokens
    max_step_tokens: int | None = None  # of all sequences in one forward pass
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None  # CPU threads
    quantize: str | None = None  # "int8" or "int4" on a CPU; "fp8" on a GPU (and for tests on a CPU)
    speculate: int = 0  # tokens guessed ahead by prompt lookup; 0: off
    overlap: bool | None = None  # the next forward pass starts before the last tokens are read; None: on a GPU
    kv_memory_bytes: int | None = None
    num_ranks: int = 1  # processes that share the model, this one included


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and all that others need to know of it."""

    model: Any
    tokenizer: Tokenizer
    card: ModelCard
    device: torch.device
    dtype: torch.dtype
    images: ImageReader | None = None  # of a vision model


@said_at_debug()
def load(model_path: str, names: tuple[str, ...], config: EngineConfig, on_progress: OnProgress) -> LoadedModel:
    """Load weights and tokenizer onto the chosen device. Raises OSError or ValueError when the folder is no model."""
    device = choose_device(config.device)
    use_device(device)
    check_quantize(config.quantize, config.dtype, device)
    on_progress("tokenizer", 0.0)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model_config = AutoConfig.from_pretrained(model_path)
    if sees(model_config) and config.num_ranks > 1:
        raise ValueError("a model of images runs on one GPU only.")
    check_packing(model_config)
    images = reader_of(model_path) if sees(model_config) else None
    model_class = AutoModelForImageTextToText if sees(model_config) else AutoModelForCausalLM
    with telling_weights(on_progress):
        model, loading_info = model_class.from_pretrained(
            model_path,
            dtype="auto",
            use_safetensors=True,
            output_loading_info=True,
            **placement(device, config.num_ranks),
        )
    missing = missing_weights(model, loading_info)
    check_complete(model, needed_for_text(model, missing) if sees(model_config) else missing)
    if missing and images is not None:
        logger.warning("%s is served without images: %s is in no file", model_path, missing[0])
        images = None
    check_unpacked(config.quantize, model)
    torch.set_num_threads(choose_threads(config, model))
    dtype = choose_dtype(config, device, model)
    model = cast(model, dtype).eval().requires_grad_(False)
    card = describe(model_path, names, tokenizer, model_config, model.generation_config, config.max_model_len)
    hold_frequencies(model, card.max_model_len)
    if images is not None:
        card = images.shown_by(card)
    check_template(model_path, card)
    logger.info("loaded %s: %s, %s on %s", model_path, card.architecture, dtype, device)
    return LoadedModel(model, Tokenizer.from_str(card.tokenizer), card, device, dtype, images)


@said_at_debug()
def import_family(model_path: str) -> None:
    """Import the code of this model's family, but no weights, for the processes that are forked from here."""
    try:
        config = AutoConfig.from_pretrained(model_path, local_files_only=True)
        with torch.device("meta"):
            (AutoModelForImageTextToText if sees(config) else AutoModelForCausalLM).from_config(config)
    except Exception as error:  # whatever it is: the worker meets it again, and has the words for it
        logger.debug("%s is not prepared: %s", model_path, error)


def device_map(device: torch.device) -> str | None:
    """A GPU is loaded into directly, without a copy of the weights in main memory."""
    return None if device.type == "cpu" else str(device)


def placement(device: torch.device, num_ranks: int) -> dict[str, Any]:
    """Where from_pretrained puts the weights; of a model that several ranks share, only this one's."""
    if num_ranks > 1:
        return {"distributed_config": DistributedConfig(tp_size=num_ranks, tp_plan="auto")}
    return {"device_map": device_map(device)}


def choose_threads(config: EngineConfig, model: Any) -> int:
    """Of a product. The setting, or: what torch found, but one for a small model, whose threads would mostly wait."""
    if config.threads is not None:
        return config.threads
    return 1 if count_parameters(model) < SMALL_MODEL_PARAMETERS else FOUND_THREADS


def choose_passes(config: EngineConfig, model: Any) -> int:
    """Passes side by side that a large step may become: as many as there are threads that products do not use."""
    return FOUND_THREADS if config.threads is None and choose_threads(config, model) == 1 else 1


def check_quantize(name: str | None, dtype: str, device: torch.device) -> None:
    """Raises ValueError where the device has no such products."""
    if name not in (None, "int8", "int4", "fp8"):
        raise ValueError(f"{name!r} is not a quantization; int8, int4 and fp8 are.")
    if name in ("int8", "int4") and device.type != "cpu":
        raise ValueError(f"OMNI_QUANTIZE={name} is for a CPU only; on a GPU leave it empty or set fp8.")
    if name == "fp8" and dtype not in ("auto", "bfloat16"):
        raise ValueError(f"OMNI_QUANTIZE=fp8 computes in bfloat16, not {dtype}; set OMNI_DTYPE to auto or bfloat16.")
    if name == "fp8":
        check_fp8(device)
        if device.type == "cpu":
            logger.warning("OMNI_QUANTIZE=fp8 is slow on a CPU; int8 is not.")


def check_packing(model_config: Any) -> None:
    """Raises ValueError for packed weights that transformers does not know: it would take them for missing ones."""
    packing = getattr(model_config, "quantization_config", None)
    if packing is not None and not AutoHfQuantizer.supports_quant_method(packing):
        raise ValueError(
            f"its weights are packed by {method_of(packing)!r}, which cannot be read; choose unpacked ones."
        )


def check_unpacked(quantize: str | None, model: Any) -> None:
    """Raises ValueError where OMNI_QUANTIZE would pack what is packed."""
    packing = getattr(model.config, "quantization_config", None)
    if quantize is not None and packing is not None:
        raise ValueError(
            f"OMNI_QUANTIZE={quantize} is for weights that are not packed, these are by {method_of(packing)!r}; "
            "leave it empty."
        )


def method_of(packing: Any) -> str:
    """As in config.json, or as transformers has read it."""
    name = packing["quant_method"] if isinstance(packing, dict) else packing.quant_method
    return str(getattr(name, "value", name))


def choose_dtype(config: EngineConfig, device: torch.device, model: Any) -> torch.dtype:
    """By name, or: as saved on a GPU; float32 on a CPU for small models and where bf16 has no fast instructions."""
    name = config.dtype
    if name != "auto":
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{name!r} is not a dtype.")
        return dtype
    if config.quantize is not None:
        return torch.bfloat16  # what the kernels compute in
    saved: torch.dtype = model.dtype
    if getattr(model, "is_quantized", False):
        return saved  # packed weights cannot be cast
    if device.type != "cpu":
        return saved if saved != torch.float32 else torch.bfloat16
    is_fast = saved == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return saved if is_fast and count_parameters(model) >= SMALL_MODEL_PARAMETERS else torch.float32


def cast(model: Any, dtype: torch.dtype) -> Any:
    """The model with its weights in `dtype`, as loaded if that is its type already.

    What it computed from its configuration stays as it is: rotary frequencies in bf16 would turn positions in the
    thousands by whole radians.
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
