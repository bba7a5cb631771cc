"""Which GGUF files a model consists of, and their faults."""

import re
from collections.abc import Sequence
from pathlib import Path

from common.model.fault import FolderFault
from common.model.gguf_header import GgufHeader, read_header, tensors_of

SUFFIX = ".gguf"
PART = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
PROJECTOR = "mmproj"  # a file that turns images into embeddings, beside a language model's file
EMBEDDING = "token_embd.weight"  # a tensor that every language model has
OTHERS = ("adapter", "imatrix", PROJECTOR)  # general.type of files that are no model


def gguf_files(model: str) -> tuple[Path, ...]:
    """The files of a GGUF model, in order; empty for a model of another form.

    `model` is a file, or a folder with no safetensors and the file or the parts of one model. Raises FolderFault.
    """
    path = Path(model)
    if path.is_file() and path.suffix == SUFFIX:
        return parts_of(path)
    if not path.is_dir() or next(path.glob("*.safetensors"), None) is not None:
        return ()
    files = sorted(path.glob(f"*{SUFFIX}"))
    found = [file for file in files if PROJECTOR not in file.name]
    if files and not found and not (path / "config.json").exists():
        raise FolderFault(
            f"{files[0].name} in that folder reads images for a language model; put the model's own file beside it"
        )
    models = {parts_of(file) for file in found}
    if len(models) > 1:
        raise FolderFault(f"there are {len(models)} models in that folder; name one, such as {found[0].name}")
    return next(iter(models), ())


def parts_of(path: Path) -> tuple[Path, ...]:
    """All parts of the model that this file is one of. Raises FolderFault if one is not there."""
    if (match := PART.fullmatch(path.name)) is None:
        return (path,)
    count = int(match["count"])
    parts = tuple(path.with_name(f"{match['name']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))
    if absent := [part.name for part in parts if not part.is_file()]:
        raise FolderFault(f"of its {count} parts {len(absent)} are not there, the first {absent[0]}; copy them too")
    return parts


def headers_of(files: Sequence[Path]) -> tuple[GgufHeader, ...]:
    """The headers of all parts. Raises FolderFault if they are no language model."""
    headers = tuple(read_header(path) for path in files)
    first = headers[0]
    name, kind = first.path.name, first.metadata.get("general.type", "model")
    if kind in OTHERS or first.architecture == "clip":
        raise FolderFault(f"{name} is no language model ({kind or first.architecture}); name the model's own file")
    if (count := int(first.metadata.get("split.count", 0))) > len(headers):
        raise FolderFault(
            f"{name} is one of {count} parts; give them their names back (...-00001-of-{count:05}.gguf) in one folder"
        )
    if not any(tensor.name == EMBEDDING for tensor in tensors_of(headers)):
        raise FolderFault(f"{name} has a vocabulary and no weights; name a file with weights")
    if not first.metadata.get("tokenizer.ggml.tokens"):
        raise FolderFault(f"there is no tokenizer in {name}; convert it again with its tokenizer")
    return headers
