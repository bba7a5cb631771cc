"""The check of GGUF files reports each fault with its file's name."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from common.model.folder import fault_of
from common.model.gguf_files import gguf_files, headers_of
from common.model.gguf_header import TYPES, read_header

Damage = Callable[[Path], object]
MANY = [f"token {number}" for number in range(300)]


def write(path: Path, tokens: tuple[str, ...] = ("a", "b"), *, has_weights: bool = True, **metadata: str) -> Path:
    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "llama"))
    for key, value in metadata.items():
        writer.add_string(key.replace("__", "."), value)
    if tokens:
        writer.add_token_list(list(tokens))
    if has_weights:
        writer.add_tensor("token_embd.weight", np.ones((len(tokens) or 1, 32), np.float32))
        writer.add_tensor("blk.0.attn_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.gguf")


def put(position: int, content: bytes) -> Damage:
    def damage(path: Path) -> None:
        old = path.read_bytes()
        path.write_bytes(old[:position] + content + old[position + len(content) :])

    return damage


def cut(num_bytes: int) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[:num_bytes])


def of_type(number: int) -> Damage:
    def damage(path: Path) -> None:
        name = b"token_embd.weight"
        at = path.read_bytes().index(name) + len(name) + 4 + 2 * 8
        put(at, struct.pack("<I", number))(path)

    return damage


@pytest.mark.parametrize(
    "damage, said",
    [
        (put(0, b"GGML"), "tiny.gguf is not a GGUF file"),
        (put(0, b"version https://git-lfs.github.com/spec/v1\n"), "its tiny.gguf is a pointer of Git LFS"),
        (put(4, struct.pack("<I", 1)), "its tiny.gguf is of GGUF version 1, and only 2 and 3"),
        (put(4, struct.pack(">I", 3)), "its tiny.gguf is of GGUF version 50331648"),
        (cut(0), "tiny.gguf is not a GGUF file"),
        (cut(20), "its tiny.gguf is not a complete GGUF file"),
        (cut(60), "its tiny.gguf is not a complete GGUF file"),
        (put(16, b"\xff" * 8), "its tiny.gguf is not a complete GGUF file"),
        (lambda path: cut(path.stat().st_size - 65)(path), "bytes but its header implies "),
        (of_type(99), "token_embd.weight in tiny.gguf is of tensor type 99, which is not known"),
        (lambda path: write(path, general__type="mmproj"), "tiny.gguf is no language model (mmproj)"),
        (lambda path: write(path, general__type="adapter"), "tiny.gguf is no language model (adapter)"),
        (lambda path: write(path, architecture="clip"), "tiny.gguf is no language model"),
        (lambda path: write(path, has_weights=False), "tiny.gguf has a vocabulary and no weights"),
        (lambda path: write(path, ()), "there is no tokenizer in tiny.gguf"),
    ],
)
def test_each_fault_is_one_sentence_that_names_the_file(file: Path, damage: Damage, said: str) -> None:
    assert fault_of(str(file)) == ""
    damage(file)
    found = fault_of(str(file))
    assert said in found
    assert "\n" not in found


def test_a_header_that_is_cut_anywhere_is_a_fault(file: Path) -> None:
    for end in range(0, read_header(file).tensors[0].start, 7):
        whole = file.read_bytes()
        cut(end)(file)
        assert fault_of(str(file)), end
        file.write_bytes(whole)


def test_types_have_the_sizes_of_the_gguf_package() -> None:
    for number, (name, *sizes) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, tuple(sizes)) == (name, gguf.GGML_QUANT_SIZES[kind])


def test_metadata_and_tensors_are_those_that_the_gguf_package_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", tuple(MANY), general__name="ü 🙂")
    header, reader = read_header(path), gguf.GGUFReader(path)
    expected: dict[str, Any] = {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }
    assert header.metadata == expected
    assert [(one.name, one.start, one.num_bytes) for one in header.tensors] == [
        (one.name, one.data_offset, one.n_bytes) for one in reader.tensors
    ]


def test_a_folder_with_one_model_is_that_model(file: Path) -> None:
    write(file.with_name("mmproj-tiny.gguf"), general__type="mmproj")
    (file.with_name("config.json")).write_text("{}")  # as repositories of GGUF files have it
    assert gguf_files(str(file.parent)) == (file,)
    assert fault_of(str(file.parent)) == ""


def test_a_folder_with_nothing_but_a_projector_says_so(file: Path) -> None:
    write(file.with_name("mmproj-tiny.gguf"), general__type="mmproj")
    file.unlink()
    said = "mmproj-tiny.gguf in that folder reads images for a language model; put the model's own file beside it"
    assert fault_of(str(file.parent)) == said
    file.with_name("config.json").write_text("{}")
    assert "mmproj" not in fault_of(str(file.parent))


def test_of_several_models_one_is_to_be_named(file: Path) -> None:
    shutil.copy(file, file.with_name("other.gguf"))
    assert fault_of(str(file.parent)) == "there are 2 models in that folder; name one, such as other.gguf"


def test_safetensors_come_first(file: Path) -> None:
    file.with_name("model.safetensors").touch()
    assert gguf_files(str(file.parent)) == ()


def test_parts_are_one_model_whichever_is_named(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    write(parts[0])
    for part in parts[1:]:
        write(part, (), general__type="model")
    assert gguf_files(str(tmp_path)) == gguf_files(str(parts[1])) == tuple(parts)
    assert len(headers_of(parts)) == 3
    parts[2].unlink()
    said = "of its 3 parts 1 are not there, the first m-00003-of-00003.gguf"
    assert said in fault_of(str(tmp_path))
    assert said in fault_of(str(parts[0]))
