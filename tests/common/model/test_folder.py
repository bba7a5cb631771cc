"""The check of a model's folder reports each fault with its file's name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.model.folder import fault_of
from common.settings import DEMO_MODEL

Damage = Callable[[Path], object]
NAMES = {"a": "model-1.safetensors", "b": "model-2.safetensors"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete model."""
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def delete(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def shard(folder: Path) -> None:
    """Weights in the first of the two files that an index names."""
    (folder / "model.safetensors").rename(folder / NAMES["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": NAMES}))


def shard_and_empty(folder: Path) -> None:
    shard(folder)
    (folder / NAMES["b"]).touch()


@pytest.mark.parametrize(
    "damage, said",
    [
        (delete("config.json"), "there is no config.json in that folder"),
        (
            lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
            "it is a LoRA adapter; name its base model, and the adapter in OMNI_ADAPTERS or the table",
        ),
        (write("config.json", b"[]"), "its config.json is not a JSON object"),
        (write("config.json", b'{"model_type": '), "its config.json is not a JSON object"),
        (write("config.json", b""), "its config.json is not a JSON object"),
        (write("config.json", b"\xff\xfe"), "its config.json is not a JSON object"),
        (write("config.json", b"[" * 100_000), "its config.json is not a JSON object"),
        (write("generation_config.json", b"{"), "its generation_config.json is not a JSON object"),
        (write("tokenizer_config.json", b"1"), "its tokenizer_config.json is not a JSON object"),
        (delete("tokenizer.json"), "there is no tokenizer.json in that folder"),
        (write("tokenizer.json", b""), "its tokenizer.json is empty"),
        (delete("model.safetensors"), "there are no weights in that folder (model.safetensors or "),
        (pickle_only, "its weights are pickled (pytorch_model.bin)"),
        (write("model.safetensors", b""), "its model.safetensors is not a complete safetensors file"),
        (write("model.safetensors", b"x" * 100), "its model.safetensors is not a complete safetensors file"),
        (write("model.safetensors", b"\2\0\0\0\0\0\0\0[]"), "its model.safetensors is not a complete safetensors file"),
        (write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "run git lfs pull"),
        (cut, "bytes but its header implies "),
        (shard, "of which 1 are not there, the first model-2.safetensors"),
        (shard_and_empty, "its model-2.safetensors is not a complete safetensors file"),
        (
            lambda folder: [shard(folder), write("model.safetensors.index.json", b"{}")(folder)],
            "its model.safetensors.index.json names no files",
        ),
    ],
)
def test_each_fault_is_one_sentence_that_names_the_file(folder: Path, damage: Damage, said: str) -> None:
    assert fault_of(str(folder)) == ""
    damage(folder)
    assert said in fault_of(str(folder))


def test_a_file_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert fault_of(str(folder)) == "config.json cannot be read (Is a directory)"


def test_complete_shards_are_accepted(folder: Path) -> None:
    shard(folder)
    shutil.copy(folder / NAMES["a"], folder / NAMES["b"])
    assert fault_of(str(folder)) == ""


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json"])
def test_a_tokenizer_may_be_made_of_other_files(folder: Path, name: str) -> None:
    (folder / "tokenizer.json").rename(folder / name)
    assert fault_of(str(folder)) == ""


def test_a_configuration_may_name_its_weights_and_hold_what_only_python_takes_for_json(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"transformers_weights": "own.safetensors", "time_step_limit": [0.0, float("inf")]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    assert fault_of(str(folder)) == ""


def test_weights_that_run_elsewhere_need_not_be_there(folder: Path) -> None:
    delete("model.safetensors")(folder)
    assert fault_of(str(folder), needs_weights=False) == ""
