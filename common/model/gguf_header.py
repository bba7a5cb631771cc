"""A GGUF file's metadata and its table of tensors, read without numpy and torch."""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from common.model.fault import FolderFault

MAGIC = b"GGUF"
LFS_POINTER = b"version https://git-lfs"
VERSIONS = (2, 3)
ALIGNMENT = 32  # of tensors, where the file names no other
STRING, ARRAY = 8, 9
FORMATS = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)  # of the other types of values
# A tensor type's number: its name, the columns of a block and their bytes.
TYPES: Mapping[int, tuple[str, int, int]] = MappingProxyType(
    {
        0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
        24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
        2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
        10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 9: ("Q8_1", 32, 40),
        16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
        29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor is in its file."""

    path: Path
    name: str
    shape: tuple[int, ...]  # as torch counts: columns last
    type_name: str
    start: int  # bytes from the file's begin
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    path: Path
    metadata: Mapping[str, Any]  # arrays are lists
    tensors: tuple[StoredTensor, ...]

    @property
    def end(self) -> int:
        """The size that a complete file has at least, in bytes."""
        return max((tensor.start + tensor.num_bytes for tensor in self.tensors), default=0)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))


class Cursor:
    """Reads values one after the other."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self.position = 0

    def numbers(self, formats: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{formats}", self._content, self.position)
        self.position += struct.calcsize(f"<{formats}")
        return found

    def string(self) -> str:
        (length,) = self.numbers("Q")
        if length > len(self._content) - self.position:
            raise ValueError(length)
        self.position += length
        return self._content[self.position - length : self.position].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.numbers(FORMATS[kind])[0]
        of, length = self.numbers("IQ")
        if length > len(self._content):
            raise ValueError(length)
        if of in FORMATS:
            return list(self.numbers(f"{length}{FORMATS[of]}"))
        return [self.value(of) for _ in range(length)]


def read_header(path: Path) -> GgufHeader:
    """Raises FolderFault for a file that is no GGUF file or ends too early, OSError for one that cannot be read."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise FolderFault(f"its {path.name} is a pointer of Git LFS and not the file itself; run git lfs pull")
        if start[: len(MAGIC)] != MAGIC:
            raise FolderFault(f"{path.name} is not a GGUF file; copy or download it again")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                header = parsed(path, Cursor(content))
        except (struct.error, ValueError, KeyError, RecursionError, OverflowError, MemoryError):
            incomplete(path)
    size = path.stat().st_size
    if size < header.end:
        raise FolderFault(
            f"its {path.name} has {size:,} bytes but its header implies {header.end:,}; copy or download it again"
        )
    return header


def incomplete(path: Path) -> NoReturn:
    raise FolderFault(f"its {path.name} is not a complete GGUF file; copy or download it again") from None


def parsed(path: Path, cursor: Cursor) -> GgufHeader:
    cursor.position = len(MAGIC)
    version, num_tensors, num_values = cursor.numbers("IQQ")
    if version not in VERSIONS:
        raise FolderFault(f"its {path.name} is of GGUF version {version}, and only 2 and 3 are read; convert it again")
    metadata = {}
    for _ in range(num_values):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.numbers("I")[0])
    table = [(cursor.string(), *place(cursor)) for _ in range(num_tensors)]
    alignment = int(metadata.get("general.alignment", ALIGNMENT))
    begin = -(-cursor.position // alignment) * alignment
    return GgufHeader(path, metadata, tuple(stored(path, begin, *row) for row in table))


def place(cursor: Cursor) -> tuple[tuple[int, ...], int, int]:
    """A tensor's shape, the number of its type and its offset."""
    (num_dimensions,) = cursor.numbers("I")
    shape = cursor.numbers(f"{num_dimensions}Q")
    return tuple(reversed(shape)), *cursor.numbers("IQ")


def stored(path: Path, begin: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> StoredTensor:
    if kind not in TYPES:
        raise FolderFault(
            f"{name} in {path.name} is of tensor type {kind}, which is not known; choose another quantization"
        )
    type_name, columns, num_bytes = TYPES[kind]
    return StoredTensor(path, name, shape, type_name, begin + offset, prod(shape) // columns * num_bytes)


def tensors_of(headers: tuple[GgufHeader, ...]) -> Iterator[StoredTensor]:
    for header in headers:
        yield from header.tensors
