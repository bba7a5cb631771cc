"""What may stand in OMNI_MODEL, told before anything is loaded."""

from pathlib import Path

import pytest

from common.model.source import check_model, fault_of
from common.settings import DEMO_MODEL, SettingsError


@pytest.mark.parametrize("model", [str(DEMO_MODEL), "gpt2", "Qwen/Qwen3-0.6B", "BAAI/bge-small-en-v1.5", "_x/a_b.c-D"])
def test_folders_and_hub_ids_are_taken(model: str) -> None:
    assert fault_of(model) == ""


@pytest.mark.parametrize("model", ["/nope", "./nope", "../nope", "~/nope", "nope/", "models/by/me", "a b", "-x/y"])
def test_a_path_that_is_not_there_is_no_hub_id(model: str) -> None:
    with pytest.raises(SettingsError, match=r"^OMNI_MODEL=.* cannot be loaded: there is no such folder, and .*\.$"):
        check_model("OMNI_MODEL", model)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert "that is a file" in fault_of(str(tmp_path / "model.safetensors"))


def test_nothing_is_no_model() -> None:
    assert "name a folder or a Hugging Face id" in fault_of("")
