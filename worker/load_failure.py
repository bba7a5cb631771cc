"""Turns an error while loading a model into one sentence for the operator, and decides whether to try again."""

import logging
import re
import sys
from collections.abc import Iterator
from types import MappingProxyType
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

# a word of the error's text -> the package that reads such weights; the first match counts
LIBRARIES = MappingProxyType(
    {
        "compressed-tensors": "compressed-tensors",
        "AWQ": "gptqmodel",
        "GPTQ": "gptqmodel optimum",
        "bitsandbytes": "bitsandbytes",
        "torchao": "torchao",
        "HQQ": "hqq",
        "quanto": "optimum-quanto",
        "aqlm": "aqlm[gpu,cpu]",
    }
)
UNKNOWN_TYPE = re.compile("model type `(.+?)` but Transformers does not recognize")
MAX_LENGTH = 300  # of a library's error text
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500


def give_up(setting: str, error: Exception) -> NoReturn:
    """End this process with one sentence and the status that tells the supervisor whether to restart it."""
    logger.debug("the traceback", exc_info=error)
    if not is_passing(error):
        refuse(f"{setting} cannot be loaded: {reason(error)}")
    logger.error("%s cannot be loaded now; trying again: %s", setting, reason(error))
    sys.exit(EXIT_TRY_AGAIN)


def is_passing(error: BaseException) -> bool:
    """True if another attempt may succeed: a failed download, a full or lost GPU, a dead rank."""
    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError, DistError)):
        return True
    return not is_offline_mode() and any(is_broken_download(cause) for cause in causes(error))


def is_broken_download(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        status: int = error.response.status_code
        return status == TOO_MANY_REQUESTS or status >= SERVER_ERROR
    return isinstance(error, (TransportError, ConnectionError, TimeoutError))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and the chain of its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason(error: BaseException) -> str:
    """The fault, and what to install or change."""
    text = brief(error)
    if isinstance(error, ImportError):
        return f"it needs a Python package that is not installed ({text}). {how_to_install(error)}"
    if isinstance(error, SafetensorError):
        return f"its weights cannot be read ({text}). Copy or download the .safetensors files again."
    if unknown := UNKNOWN_TYPE.search(text):
        return f"its config.json names the model_type {unknown[1]!r}, which transformers {__version__} does not know."
    if "ignore_mismatched_sizes" in text:
        return "its weights have other shapes than its config.json says. Use both from the same checkpoint."
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU has no room for it ({text}). Stop other programs on the GPU, or choose a smaller model."
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "there is not enough memory for it. Choose a smaller model, or set OMNI_DTYPE=bfloat16."
    if isinstance(error, (OSError, ValueError)):
        return text
    return (
        f"its files are not understood ({type(error).__name__}: {text}). Check config.json and the tokenizer's files."
    )


def brief(error: BaseException) -> str:
    """The error's own text, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"


def how_to_install(error: ImportError) -> str:
    library = next((library for word, library in LIBRARIES.items() if word in str(error)), error.name)
    command = f" ({sys.executable} -m pip install {library})" if library else ""
    return f"Install it{command}, or choose weights that are not packed this way."
