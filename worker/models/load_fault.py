"""What is wrong with a model that cannot be loaded, in one sentence: the fault, and what to install or change."""

import errno
import re
import sys
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from transformers import __version__

from common.model.fault import FolderFault

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
MISMATCH = "ignore_mismatched_sizes"  # in transformers' error for a weight of another shape
CONVERSION = "automatic conversion of the weights"  # in transformers' error where it stacks experts
ALLOCATORS = ("DefaultCPUAllocator", "out of memory")  # in the errors of torch and of CUDA
MAX_LENGTH = 300  # of a library's error text


def reason(error: BaseException) -> str:
    """The fault, and what to install or change."""
    text = brief(error)
    if isinstance(error, ImportError):
        return f"it needs a Python package that is not installed ({text}). {how_to_install(error)}"
    if isinstance(error, SafetensorError):
        return f"its weights cannot be read ({text}). Copy or download the .safetensors files again."
    if unknown := UNKNOWN_TYPE.search(text):
        return f"its config.json names the model_type {unknown[1]!r}, which transformers {__version__} does not know."
    if MISMATCH in text:
        return "its weights have other shapes than its config.json says. Use both from the same checkpoint."
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError) and is_out_of_memory(error):
        return f"the GPU has no room for it ({text}). Stop other programs on the GPU, or choose a smaller model."
    if CONVERSION in text:
        return (
            "some weights of its experts are in no file, or have other shapes than its config.json says. "
            "Use config.json and weights of the same checkpoint, and all of its files."
        )
    if is_out_of_memory(error):
        return "there is not enough memory for it. Choose a smaller model, or set OMNI_DTYPE=bfloat16."
    if isinstance(error, FolderFault):
        return f"{text}."
    if isinstance(error, (OSError, ValueError)):
        return text
    return (
        f"its files are not understood ({type(error).__name__}: {text}). Check config.json and the tokenizer's files."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU or on the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATORS)


def brief(error: BaseException) -> str:
    """The error's own text, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"


def how_to_install(error: ImportError) -> str:
    library = next((library for word, library in LIBRARIES.items() if word in str(error)), error.name)
    command = f" ({sys.executable} -m pip install {library})" if library else ""
    return f"Install it{command}, or choose weights that are not packed this way."
