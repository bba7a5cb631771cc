"""Checks without torch that a model's name is possible, and that the files of its folder are present and complete."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.model.fault import FolderFault
from common.model.gguf_files import gguf_files, headers_of
from common.model.gguf_header import LFS_POINTER

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"  # of a folder that is no model
OTHER_OBJECTS = ("generation_config.json", "tokenizer_config.json")
TOKENIZERS = (
    "tokenizer.json",
    "tekken.json",
    "*.model",
    "*.tiktoken",
    "vocab.*",
)  # files that a tokenizer can be loaded from
LENGTH_BYTES = 8  # in front of a safetensors file's header
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def fault_of(model: str, *, needs_weights: bool = True, needs_tokenizer: bool = True) -> str:
    """The fault of the name or its folder, before anything is loaded or downloaded; empty if there is none."""
    if not model:
        return "name a folder or a Hugging Face id"
    path = Path(model)
    try:
        if files := gguf_files(model):
            headers_of(files)
            return ""
    except FolderFault as fault:
        return str(fault)
    except OSError as error:
        return unreadable(error, path)
    if path.is_dir():
        return fault_in(path, needs_weights=needs_weights, needs_tokenizer=needs_tokenizer)
    if path.exists():
        return "that is a file; name a .gguf file, or the folder that holds config.json and the weights"
    return "" if HUB_ID.fullmatch(model) else "there is no such folder, and a Hugging Face id looks like owner/name"


def size_of_weights(model: str) -> int:
    """Bytes of the files with a model's weights; 0 if they are not in a folder or file of this name."""
    files = gguf_files(model) or Path(model).glob("*.safetensors")
    return sum(path.stat().st_size for path in files)


def fault_in(folder: Path, *, needs_weights: bool, needs_tokenizer: bool = True) -> str:
    """The first fault, with the file's name; empty if there is none."""
    try:
        if (folder / ADAPTER).is_file() and not (folder / CONFIG).exists():
            raise FolderFault(
                "it is a LoRA adapter; name its base model, and the adapter in OMNI_ADAPTERS or the table"
            )
        config = read_object(folder / CONFIG)
        for name in OTHER_OBJECTS:
            if (folder / name).exists():
                read_object(folder / name)
        if needs_tokenizer:
            check_tokenizer(folder)
        for path in weight_files(folder, config) if needs_weights else ():
            check_safetensors(path)
    except FolderFault as fault:
        return str(fault)
    except OSError as error:
        return unreadable(error, folder)
    return ""


def unreadable(error: OSError, path: Path) -> str:
    return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"


def read_object(path: Path) -> dict[str, Any]:
    """Raises FolderFault for anything but a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FolderFault(f"there is no {path.name} in that folder; name the one that holds it") from None
    except (ValueError, RecursionError):  # a text that is not UTF-8 is a ValueError too
        content = None
    if not isinstance(content, dict):
        raise FolderFault(f"its {path.name} is not a JSON object; copy or download it again")
    return content


def check_tokenizer(folder: Path) -> None:
    found = [path for pattern in TOKENIZERS for path in folder.glob(pattern) if path.is_file()]
    if not found:
        raise FolderFault("there is no tokenizer.json in that folder; copy the tokenizer's files there too")
    if not any(path.stat().st_size for path in found):
        raise FolderFault(f"its {found[0].name} is empty; copy or download it again")


def weight_files(folder: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """The weight files that from_pretrained reads: a single one, or all that an index names."""
    named = config.get("transformers_weights")
    names = (named,) if isinstance(named, str) else (WEIGHTS, INDEX)
    name = next((name for name in names if (folder / name).is_file()), None)
    if name is None:
        raise FolderFault(without_weights(folder, names))
    if not name.endswith(".index.json"):
        yield folder / name
        return
    weight_map = read_object(folder / name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FolderFault(f"its {name} names no files; copy or download it again")
    shards = sorted({str(shard) for shard in weight_map.values()})
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise FolderFault(
            f"its {name} names {len(shards)} files, of which {len(absent)} are not there, the first {absent[0]}; "
            "copy or download them"
        )
    yield from (folder / shard for shard in shards)


def without_weights(folder: Path, names: tuple[str, ...]) -> str:
    if pickled := sorted(folder.glob("*.bin")):
        return f"its weights are pickled ({pickled[0].name}), which can run code; convert them to safetensors"
    return f"there are no weights in that folder ({' or '.join(names)}); copy or download them"


def check_safetensors(path: Path) -> None:
    """Raises FolderFault if the file's size is not the one that its header implies."""
    size = path.stat().st_size
    try:
        end = end_of_tensors(path, size)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise FolderFault(f"its {path.name} is not a complete safetensors file; copy or download it again") from None
    if size != end:
        raise FolderFault(
            f"its {path.name} has {size:,} bytes but its header implies {end:,}; copy or download it again"
        )


def end_of_tensors(path: Path, size: int) -> int:
    """The file's size in bytes by its header: the length field, the JSON of that length, the tensors."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise FolderFault(f"its {path.name} is a pointer of Git LFS and not the file itself; run git lfs pull")
        begin = LENGTH_BYTES + int.from_bytes(start[:LENGTH_BYTES], "little")
        if not LENGTH_BYTES < begin <= size:
            raise ValueError(begin)
        file.seek(LENGTH_BYTES)
        header = json.loads(file.read(begin - LENGTH_BYTES))
    return begin + max(
        (int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"), default=0
    )
