"""Loads a model folder or hub id: the model, its tokenizer, and the card that describes it to the API."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.distributed import DistributedConfig

from common.wire import ModelCard
from worker.device import choose_device, use_device
from worker.gpu_memory.arena import Arena
from worker.kept.keep import Keep
from worker.kernels.packed.choice import SMALL_BYTES
from worker.kernels.quantized import Quantization
from worker.models.card import check_template, describe
from worker.models.dtypes import SMALL_MODEL_PARAMETERS, cast, choose_dtype, count_parameters, dtype_for
from worker.models.experts.place import check_choice, home_of, is_sparse, move_rest
from worker.models.experts.stored import load_stored
from worker.models.formats.format import Format
from worker.models.formats.known import format_of
from worker.models.formats.packing import check_packing, check_unpacked, packing_of
from worker.models.formats.reader import (
    check_numbers,
    has_packed,
    load_packed,
    on_meta,
    sizes,
    weight_bytes,
)
from worker.models.gguf.model import GgufModel, gguf_model
from worker.models.kept.key import kept_key
from worker.models.kept.state import KeptModel, card_of, kept_model, put_state
from worker.models.loading_reports import logs_at_debug, reports_weights
from worker.models.missing_weights import check_complete, missing_weights, needed_for_text, shapes_named
from worker.models.read.config import read_config
from worker.models.read.tokenizer import read_tokenizer
from worker.models.rope import fix_frequencies
from worker.models.transformers_seams import attend_with_softcap
from worker.models.vision import ImageProcessor, image_processor, is_vision_model
from worker.progress import OnProgress

logger = logging.getLogger(__name__)

FP8_KV = "fp8"  # of OMNI_KV_DTYPE


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
    experts: str = "auto"  # where routed experts stand: "gpu", "ram", or "auto": on a GPU if they fit, else in RAM
    gpu_memory_utilization: float = 0.9  # of the GPU's memory, the share that this process may fill
    speculate: int = 0  # most tokens drafted for a sequence and step; 0: off
    draft_model: str = ""  # a folder or hub id
    overlap: bool | None = None  # start a forward pass before the last one's tokens are read; None: on a GPU
    kv_memory_bytes: int | None = None
    num_ranks: int = 1  # processes that share the model, this one included
    adapters: tuple[tuple[str, str], ...] = ()  # name and folder of each
    products_table: Path | None = None  # a file for what is measured of a GPU's products; None: measured each time
    packed_folder: Path | None = None  # for the packed experts of large models; None: packed in memory at each start


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
    kept: KeptModel | None = None  # where its weights are kept; they are not yet if it was not restored
    arena: Arena | None = None  # in which they are on a GPU, if they leave it and return


@logs_at_debug()
def load(
    model_path: str, names: tuple[str, ...], config: EngineConfig, on_progress: OnProgress, keep: Keep | None = None
) -> LoadedModel:
    """Load weights and tokenizer onto the chosen device. Raises OSError or ValueError for a folder that is no model.

    `keep`: where the weights are found that another process has kept, or are to be kept.
    """
    device = choose_device(config.device)
    use_device(device)
    if config.quantization is not None:
        config.quantization.check(config.dtype, device)
    check_kv_dtype(config, device)
    on_progress("tokenizer", 0.0)
    kept = kept_model(keep, kept_key(model_path, config)) if keep else None
    if kept is not None and kept.found is not None:
        return restored(model_path, names, kept, device)
    gguf = gguf_model(model_path)
    model_config = gguf.config if gguf else read_config(model_path)
    tokenizer = gguf.tokenizer() if gguf else read_tokenizer(model_path, model_config)
    has_vision = is_vision_model(model_config)
    if has_vision and config.num_ranks > 1:
        raise ValueError("a vision model runs on one GPU only.")
    packing = packing_of(model_path, model_config)
    if (form := format_of(packing)) is None:
        check_packing(packing)
    images = image_processor(model_path) if has_vision else None
    check_choice(model_config)
    home = home_of(model_path, model_config, config, device)
    family, found = model_class(model_config), None
    if gguf is None and not has_vision and (form is not None or packing is None):
        found = load_stored(
            family, model_path, model_config, form, packed_folder(config, home), config, device, on_progress
        )
    if found is None:
        check_unpacked(config.quantization, packing, is_sparse=is_sparse(model_config))
        with reports_weights(on_progress), shapes_named(family, model_path, model_config, form):
            found = read_weights(family, model_path, model_config, gguf, form, config, device, home)
    model, loading_info = found
    missing = missing_weights(model, loading_info)
    check_complete(model, needed_for_text(model, missing) if has_vision else missing)
    if missing and images is not None:
        logger.warning("%s is served without images: %s is in no file", model_path, missing[0])
        images = None
    is_packed = has_packed(model) and (form is not None or gguf is not None)
    num_passes, dtype = use_threads(config, model), choose_dtype(config, device, model, is_packed=is_packed)
    model = move_rest(cast(model, dtype).eval().requires_grad_(False), home, device)
    card = describe(model_path, names, tokenizer, model_config, model.generation_config, config.max_model_len)
    fix_frequencies(model, card.max_model_len)
    attend_with_softcap(model)
    card = card if images is None else images.extend(card)
    check_template(model_path, card)
    logger.info("loaded %s: %s, %s on %s, %s", model_path, card.architecture, dtype, device, sizes(model))
    return LoadedModel(model, Tokenizer.from_str(card.tokenizer), card, device, dtype, images, num_passes, kept)


def read_weights(
    family: Any,
    model_path: str,
    model_config: Any,
    gguf: GgufModel | None,
    form: Format | None,
    config: EngineConfig,
    device: torch.device,
    home: torch.device,
) -> tuple[Any, dict[str, Any]]:
    """The model for `device` with all its weights in the memory of `home`, and from_pretrained's loading info."""
    place = placement(home, config.num_ranks)
    if gguf is not None:
        dtype = dtype_for(config, device, gguf.dtype, gguf.num_parameters, is_packed=gguf.has_codes)
        return gguf.load(family, dtype, **place)
    if form is not None:
        return load_packed(family, model_path, model_config, form, **place)
    model, loading_info = family.from_pretrained(
        model_path, config=model_config, dtype="auto", use_safetensors=True, output_loading_info=True, **place
    )
    if not getattr(model, "is_quantized", False):
        check_numbers(model_path)
    return model, loading_info


def packed_folder(config: EngineConfig, home: torch.device) -> Path | None:
    """Where routed experts are packed that stand in this machine's memory, for the CPU; None if they do not."""
    return config.packed_folder if home.type == "cpu" and config.num_ranks == 1 else None


def restored(model_path: str, names: tuple[str, ...], kept: KeptModel, device: torch.device) -> LoadedModel:
    """A model of kept weights, without those of its products, which are the runner's (worker/runners/kept)."""
    assert kept.found is not None
    about = kept.found.about
    gguf = gguf_model(model_path)
    model_config = gguf.config if gguf else read_config(model_path)
    model = on_meta(model_class(model_config), model_config).eval()
    put_state(model, about["state"], kept.found)
    card = replace(card_of(about["card"]), queue=names[0], names=names)
    fix_frequencies(model, card.max_model_len)
    torch.set_num_threads(about["num_threads"])
    logger.info("loaded %s: its weights were kept, %.2f GiB", model_path, kept.found.num_bytes / 2**30)
    tokenizer, dtype = Tokenizer.from_str(card.tokenizer), getattr(torch, about["dtype"])
    return LoadedModel(model, tokenizer, card, device, dtype, None, about["num_passes"], kept)


@logs_at_debug()
def import_family(model_path: str) -> None:
    """Import the code of this model's family, without its weights, for the processes forked from this one."""
    try:
        gguf = gguf_model(model_path)
        config = gguf.config if gguf else read_config(model_path, local_files_only=True)
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
    return 1 if is_small(model) else torch.get_num_threads()


def is_small(model: Any) -> bool:
    """True for a model whose products are over before several threads have met, on a busy machine above all."""
    if has_packed(model):
        return sum(weight_bytes(model).values()) < SMALL_BYTES
    return count_parameters(model) < SMALL_MODEL_PARAMETERS


def use_threads(config: EngineConfig, model: Any) -> int:
    """Set torch's number of threads; returns the number of passes that a large step may be split into.

    A pass runs on one thread, so there are as many as threads that products do not use. Call this once per process
    without a number: torch's default is not known any more when another one has been set.
    """
    num_default, num_threads = torch.get_num_threads(), choose_threads(config, model)
    torch.set_num_threads(num_threads)
    return num_default if config.threads is None and num_threads == 1 else 1
