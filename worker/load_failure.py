"""Why a model cannot be loaded, in one sentence for the operator, and whether that passes by itself."""

import logging
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

import torch
from httpx2 import TransportError
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch.distributed import DistError
from transformers import __version__

from common.process.child import EXIT_TRY_AGAIN
from common.settings import refuse

logger = logging.getLogger("omni.worker")

LIBRARIES = {  # a word of the error's text -> what reads such weights; the first that is found counts
    "compressed-tensors": "compressed-tensors",
    "AWQ": "gptqmodel",
    "GPTQ": "gptqmodel optimum",
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "HQQ": "hqq",
    "quanto": "optimum-quanto",
    "aqlm": "aqlm[gpu,cpu]",
}
UNKNOWN_TYPE = re.compile("model type `(.+?)` but Transformers does not recognize")
MAX_LENGTH = 300  # of what others say
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500


def give_up(setting: str, error: Exception) -> NoReturn:
    """End this process with one sentence; its parent starts a successor only where that may help."""
    logger.debug("where it failed", exc_info=error)
    if not is_passing(error):
        refuse(f"{setting} cannot be loaded: {reason(error)}")
    logger.error("%s cannot be loaded now, and is tried again: %s", setting, reason(error))
    sys.exit(EXIT_TRY_AGAIN)


def is_passing(error: BaseException) -> bool:
    """Trying again may help: the hub or its network broke, a GPU is full or lost, another rank is gone."""
    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError, DistError)):
        return True
    return not is_offline_mode() and any(is_broken_download(cause) for cause in causes(error))


def is_broken_download(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        status: int = error.response.status_code
        return status == TOO_MANY_REQUESTS or status >= SERVER_ERROR
    return isinstance(error, (TransportError, ConnectionError, TimeoutError))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason(error: BaseException) -> str:
    """What is wrong, and what to install or change."""
    said = brief(error)
    if isinstance(error, ImportError):
        return f"it needs a Python package that is not installed ({said}). {how_to_install(error)}"
    if isinstance(error, SafetensorError):
        return f"its weights cannot be read ({said}). Copy or download the .safetensors files again."
    if unknown := UNKNOWN_TYPE.search(said):
        return f"its config.json names the model_type {unknown[1]!r}, which transformers {__version__} does not know."
    if "ignore_mismatched_sizes" in said:
        return "its weights have other shapes than its config.json says. Use both from the same checkpoint."
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU has no room for it ({said}). End what else uses the GPU, or choose a smaller model."
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in said:
        return "there is not enough memory for it. Choose a smaller model, or set OMNI_DTYPE=bfloat16."
    if isinstance(error, (OSError, ValueError)):
        return said
    return (
        f"its files are not understood ({type(error).__name__}: {said}). Check config.json and the tokenizer's files."
    )


def brief(error: BaseException) -> str:
    """What it says itself, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"


def how_to_install(error: ImportError) -> str:
    library = next((library for word, library in LIBRARIES.items() if word in str(error)), error.name)
    command = f" ({sys.executable} -m pip install {library})" if library else ""
    return f"Install it{command}, or choose weights that are not packed this way."
