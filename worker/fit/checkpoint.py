"""A model without its numbers: the shapes of its configuration, and the sizes that its files' headers tell."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.model.folder import CONFIG, fault_of
from worker.fit.experts import expert_tensors
from worker.fit.known import KNOWN, KnownModel, known_model
from worker.models.config_fields import USUAL_LENGTH, is_encoder, longest_sequence
from worker.models.formats.format import Format
from worker.models.formats.known import format_of
from worker.models.formats.packing import method_of, packing_of
from worker.models.formats.reader import dtype_of, on_meta, opened
from worker.models.gguf.model import gguf_model
from worker.models.loader import model_class
from worker.models.missing_weights import check_shapes
from worker.models.model_files import file_of
from worker.models.read.config import read_config


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on the meta device. `packing`: how its weights are packed, empty for plain ones."""

    path: str
    model: Any
    saved: torch.dtype
    packing: Mapping[str, Any] | None
    form: Format | None  # None: plain, GGUF, or packed for one of transformers' libraries
    has_weights: bool

    @property
    def packing_name(self) -> str:
        return "" if self.packing is None else method_of(self.packing)

    @property
    def max_model_len(self) -> int:
        return longest_sequence(self.model.config.get_text_config()) or USUAL_LENGTH


def read(model_path: str) -> Checkpoint:
    """A folder, a GGUF file, a config.json, a cached hub id, or a known name. Nothing is downloaded.

    Raises OSError or ValueError.
    """
    if (known := known_model(model_path)) is not None and not is_here(model_path):
        return of_known(known)
    check_is_here(model_path)
    gguf = gguf_model(model_path)
    config = gguf.config if gguf else read_config(model_path, local_files_only=True)
    check_generates(config)
    packing = packing_of(model_path, config)
    dtype = dtype_of(config)
    model = on_meta(model_class(config), config, dtype=dtype).eval()
    if gguf is not None:
        gguf.check(model)
    form = format_of(packing)
    has_weights = gguf is not None or has_files(model_path)
    if gguf is None and has_weights and (form is not None or packing is None):
        with ExitStack() as files:
            check_shapes(model, opened(model_path, files), form)
    return Checkpoint(model_path, model, dtype, packing, form, has_weights)


def of_known(known: KnownModel) -> Checkpoint:
    config = known.config()
    dtype = dtype_of(config)
    model = on_meta(model_class(config), config, dtype=dtype).eval()
    return Checkpoint(known.hub_id, model, dtype, known.packing, format_of(known.packing), has_weights=False)


def is_here(model_path: str) -> bool:
    return Path(model_path).exists() or file_of(model_path, CONFIG) is not None


def check_is_here(model_path: str) -> None:
    """Raises ValueError for a name that stands for nothing on this machine."""
    path = Path(model_path)
    has_some = path.is_dir() and any(path.glob("*.safetensors*"))  # then all have to be there
    if not path.is_file() and (fault := fault_of(model_path, needs_weights=has_some, needs_tokenizer=False)):
        raise ValueError(f"{fault}.")
    if not is_here(model_path):
        raise ValueError(f"there is no such folder or file, nor is it in the hub's cache. {instead_of(model_path)}")


def instead_of(name: str) -> str:
    """What to do about a name that stands for nothing here, as a sentence."""
    if "/" in name:
        return f"Download it first: omni models pull {name}"
    near = get_close_matches(name.lower(), KNOWN, 1)
    return f"Did you mean {near[0]}?" if near else f"Name a folder, owner/name, or one of {', '.join(KNOWN)}."


def check_generates(config: Any) -> None:
    """Raises ValueError for an encoder."""
    if is_encoder(config):
        raise ValueError(f"it is an encoder ({config.architectures[0]}); omni fit counts models that generate text.")


def has_files(model_path: str) -> bool:
    try:
        with ExitStack() as files:
            return len(list(opened(model_path, files))) > 0
    except OSError:
        return False


def parameters(checkpoint: Checkpoint) -> dict[str, int]:
    """The numbers of parameters by kind. Weights that two layers share count once, as the embedding's."""
    model, seen = checkpoint.model, set[int]()
    experts = expert_tensors(model)
    found: dict[str, int] = defaultdict(int)
    kinds = {
        **{id(part.weight): "embeddings" for part in model.modules() if isinstance(part, nn.Embedding)},
        **{id(part.weight): "linear layers" for part in model.modules() if isinstance(part, nn.Linear)},
    }
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    kinds |= {id(part.weight): name for part, name in ((head, "head"), (embedding, "embeddings")) if part is not None}
    for parameter in model.parameters():
        if id(parameter) not in seen:
            found["experts" if id(parameter) in experts else kinds.get(id(parameter), "other")] += parameter.numel()
            seen.add(id(parameter))
    return dict(found)
