"""Weights that a checkpoint lacks: transformers fills them with random numbers, and the model would talk nonsense."""

from collections.abc import Mapping, Sequence
from typing import Any


def missing_weights(model: Any, loading_info: Mapping[str, Any]) -> list[str]:
    """Names of what no file holds, in the model's order; `loading_info` is from_pretrained's own.

    Buffers do not count, as the model computes them, nor do weights that are tied to others. Of a packed layer some
    parts may rightly be absent (zero points, scales), so that it counts only where nothing of it is there.
    """
    absent = set(loading_info["missing_keys"])
    if not absent:
        return []
    names = [name for name, _ in model.named_parameters() if name in absent]
    if getattr(model, "is_quantized", False):
        present = {module_of(name) for name in model.state_dict() if name not in absent}
        names = [name for name in names if module_of(name) not in present]
    return names


def check_complete(model: Any, missing: Sequence[str]) -> None:
    """Raises ValueError for weights that answers are computed with."""
    if missing:
        total = sum(1 for _ in model.parameters())
        raise ValueError(
            f"{len(missing)} of its {total} weights are in no file, the first of them is {missing[0]}. "
            "Use config.json and weights of the same checkpoint, and all of its files."
        )


def needed_for_text(model: Any, missing: Sequence[str]) -> list[str]:
    """Of a model of images: the missing ones without which it cannot answer a text either."""
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    of_text = {id(parameter) for part in parts for parameter in part.parameters()}
    return [name for name in missing if id(model.get_parameter(name)) in of_text]


def needed_for_states(missing: Sequence[str]) -> list[str]:
    """Of an encoder: all but its pooler, which we do not use and many checkpoints do not have."""
    return [name for name in missing if "pooler" not in name.split(".")]


def module_of(name: str) -> str:
    return name.rpartition(".")[0]
