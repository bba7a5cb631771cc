"""A draft model that cannot be used ends the start, and its setting is named."""

from pathlib import Path

import pytest
from redis import Redis

from common.settings import read_settings
from tests.worker.conftest import ModelFolder
from worker.jobs.ledger import Ledger
from worker.main import load_and_warm_up


@pytest.mark.parametrize(("family", "said"), [("mamba", "no guess can be taken back"), ("", "")])
def test_a_worker_without_its_draft_model_names_the_setting(
    family: str, said: str, model_folder: ModelFolder, tmp_path: Path, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = model_folder(family) if family else tmp_path
    settings = read_settings({"OMNI_MODEL": str(model_folder()), "OMNI_DRAFT_MODEL": str(draft)})
    with pytest.raises(SystemExit, match="2"):
        load_and_warm_up(settings, Ledger(redis, "queue", "worker"), embeds=False, device="cpu")
    shown = capsys.readouterr().err
    assert f"configuration: OMNI_DRAFT_MODEL={draft} cannot be loaded: " in shown and said in shown
