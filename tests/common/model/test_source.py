"""The values of OMNI_MODEL that are accepted, checked before anything is loaded."""

from pathlib import Path

import pytest

from common.model.folder import fault_of
from common.model.source import check_generating, check_model
from common.settings import DEMO_MODEL, SettingsError, read_settings


@pytest.mark.parametrize("model", [str(DEMO_MODEL), "gpt2", "Qwen/Qwen3-0.6B", "BAAI/bge-small-en-v1.5", "_x/a_b.c-D"])
def test_folders_and_hub_ids_are_accepted(model: str) -> None:
    assert fault_of(model) == ""


@pytest.mark.parametrize("model", ["/nope", "./nope", "../nope", "~/nope", "nope/", "models/by/me", "a b", "-x/y"])
def test_a_missing_path_is_not_a_hub_id(model: str) -> None:
    with pytest.raises(SettingsError, match=r"^OMNI_MODEL=.* cannot be loaded: there is no such folder, and .*\.$"):
        check_model("OMNI_MODEL", model)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert "that is a file" in fault_of(str(tmp_path / "model.safetensors"))


def test_an_empty_name_is_refused() -> None:
    assert "name a folder or a Hugging Face id" in fault_of("")


def test_an_adapter_that_is_no_folder_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nope"):
        settings = read_settings({"OMNI_MODEL": str(DEMO_MODEL), "OMNI_ADAPTERS": f"sql={folder}"}).model
        if folder.exists():
            check_generating(settings)
        else:
            with pytest.raises(SettingsError, match=r"^OMNI_ADAPTERS: the adapter sql=.*nope is not a folder on "):
                check_generating(settings)
