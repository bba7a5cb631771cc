"""Finds weights that a checkpoint lacks, or has in another size. transformers makes up the lacking ones at random."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

from worker.models.formats.format import Format
from worker.models.formats.reader import on_meta, opened
from worker.models.load_fault import CONVERSION, MISMATCH


def missing_weights(model: Any, loading_info: Mapping[str, Any]) -> list[str]:
    """The names of weights that are in no file, in the model's order; `loading_info` is from_pretrained's.

    Buffers (which the model computes) and weights tied to others do not count. A packed layer may rightly lack some
    parts (zero points, scales), so it counts only if all of its parts are missing.
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
    """Raises ValueError if any weight is missing."""
    if missing:
        total = sum(1 for _ in model.parameters())
        raise ValueError(
            f"{len(missing)} of its {total} weights are in no file, the first of them is {missing[0]}. "
            "Use config.json and weights of the same checkpoint, and all of its files."
        )


def needed_for_text(model: Any, missing: Sequence[str]) -> list[str]:
    """Those missing weights of a vision model without which it cannot answer a text either."""
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    of_text = {id(parameter) for part in parts for parameter in part.parameters()}
    return [name for name in missing if id(model.get_parameter(name)) in of_text]


def needed_for_states(missing: Sequence[str]) -> list[str]:
    """The missing weights of an encoder except its pooler's, which we do not use and many checkpoints lack."""
    return [name for name in missing if "pooler" not in name.split(".")]


def module_of(name: str) -> str:
    return name.rpartition(".")[0]


def check_shapes(model: Any, tensors: Iterable[tuple[str, Any]], form: Format | None) -> None:
    """Raises ValueError for a tensor of files that has another number of elements than the model's of this name.

    `model`: on the meta device. `form`: of packed weights, whose sizes are not compared.
    """
    expected = dict(model.named_parameters())
    for name, tensor in tensors:
        if name in expected and (form is None or form.part_of(name) is None):
            shape, wanted = tensor.get_shape(), list(expected[name].shape)
            if prod(shape) != prod(wanted):  # transformers turns some
                raise ValueError(
                    f"its weights have other shapes than its config.json says, the first is {name}: {shape} in "
                    f"the file, {wanted} by config.json. Use both from the same checkpoint."
                )


@contextmanager
def shapes_named(family: Any, model_path: str, model_config: Any, form: Format | None) -> Iterator[None]:
    """Where transformers fails to load a model by a weight's shape, the error says which one. Raises ValueError."""
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in (MISMATCH, CONVERSION)):
            raise
        with ExitStack() as files:
            check_shapes(on_meta(family, model_config), opened(model_path, files), form)
        raise
