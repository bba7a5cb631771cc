"""A draft model that cannot be used ends the start, and its setting is named."""

import shutil
from pathlib import Path

import pytest
from redis import Redis

from common.settings import read_settings
from tests.worker.conftest import ModelFolder
from worker.jobs.ledger import Ledger
from worker.main import load_and_warm_up


@pytest.mark.parametrize(
    ("family", "removed", "said"),
    [
        ("mamba", "", "no guess can be taken back"),
        ("llama", "tokenizer.json", "there is no tokenizer.json in that folder"),
        ("llama", "model.safetensors", "there are no weights in that folder"),
        ("llama", "config.json", ""),
    ],
)
def test_a_worker_without_its_draft_model_names_the_setting(
    family: str,
    removed: str,
    said: str,
    model_folder: ModelFolder,
    tmp_path: Path,
    redis: Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draft = shutil.copytree(model_folder(family), tmp_path / "draft")
    if removed:
        (draft / removed).unlink()
    settings = read_settings({"OMNI_MODEL": str(model_folder()), "OMNI_DRAFT_MODEL": str(draft)})
    with pytest.raises(SystemExit, match="2"):
        load_and_warm_up(settings, Ledger(redis, "queue", "worker"), None, embeds=False, device="cpu")
    shown = capsys.readouterr().err
    assert f"configuration: OMNI_DRAFT_MODEL={draft} cannot be loaded: " in shown and said in shown
