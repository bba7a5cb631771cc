"""The name under which a model's weights are kept: everything that their packed form depends on, as a hash."""

import hashlib
import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers
import torch
import transformers

from worker.device import choose_device, usable_cores
from worker.kernels.native import processor_features
from worker.models.card import revision_of
from worker.models.model_files import file_of

if TYPE_CHECKING:
    from worker.models.loader import EngineConfig

WORKER = Path(__file__).parents[2]
CODE = ("attention", "kept", "kernels", "models", "runners", "state")  # rooms whose code makes or reads what is kept
SETTINGS = ("max_model_len", "dtype", "threads", "quantization", "kv_dtype")  # of EngineConfig, that change it


def kept_name(model_path: str, config: "EngineConfig") -> str | None:
    """Known before the model is loaded. None for what is not kept: models on GPUs, or shared by several processes."""
    key = kept_key(model_path, config)
    return None if key is None else f"weights:{key}"


def kept_key(model_path: str, config: "EngineConfig") -> str | None:
    """See kept_name()."""
    if config.num_ranks > 1 or choose_device(config.device).type != "cpu":
        return None
    digest = hashlib.sha256(code_version().encode())
    for part in (
        os.path.abspath(model_path) if os.path.exists(model_path) else model_path,
        revision_of(model_path),
        *files_of(model_path),
        *(f"{name} {getattr(config, name)}" for name in SETTINGS),
    ):
        digest.update(f"{part}\0".encode())
    return digest.hexdigest()[:20]


def files_of(model_path: str, pattern: str = "*") -> Iterator[str]:
    """Names, sizes and times of the files of a folder, or of a hub id in the cache."""
    config = file_of(model_path, "config.json")
    for path in sorted((config.parent if config is not None else Path(model_path)).glob(pattern)):
        if not path.exists():  # a link to nothing, such as an editor's lock
            continue
        yield f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"


@cache
def code_version() -> str:
    """Of our code, the libraries, and the processor."""
    digest = hashlib.sha256()
    for room in CODE:
        for path in sorted((WORKER / room).rglob("*.[pch]*")):
            if path.suffix in (".py", ".c", ".h"):
                digest.update(path.read_bytes())
    versions = (torch.__version__, transformers.__version__, tokenizers.__version__, platform.python_version())
    digest.update(" ".join([*versions, str(usable_cores()), platform.machine(), processor_features()]).encode())
    return digest.hexdigest()
