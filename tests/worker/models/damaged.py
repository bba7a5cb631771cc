"""Damaged model folders, and the error that loading each ends with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from worker.load_failure import is_passing
from worker.models.load_fault import reason
from worker.models.loader import EngineConfig, LoadedModel, load


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def loaded(folder: Path, **config: Any) -> LoadedModel:
    return load(str(folder), ("tiny",), EngineConfig(device="cpu", **config), lambda what, share: None)


def failure(folder: Path, **config: Any) -> str:
    """The sentence for the operator."""
    with pytest.raises(Exception) as raised:
        loaded(folder, **config)
    assert not is_passing(raised.value)
    sentence = reason(raised.value)
    assert "\n" not in sentence
    return sentence


def keep_weights(folder: Path, is_kept: Callable[[str], bool]) -> None:
    """Remove the other weights from the checkpoint."""
    path = folder / "model.safetensors"
    save_file({name: weight for name, weight in load_file(path).items() if is_kept(name)}, path, {"format": "pt"})
