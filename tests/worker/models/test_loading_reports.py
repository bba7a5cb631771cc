"""While transformers loads, the bar that counts weights is ours and its log goes to debug."""

from pathlib import Path

import pytest
from transformers.utils.logging import tqdm

from tests.models import save_model
from tests.worker.models.damaged import failure, set_config
from worker.models.loading_reports import reports_weights


def test_other_progress_bars_stay_as_they_are() -> None:
    reports: list[str] = []
    with reports_weights(lambda what, share: reports.append(what)):
        assert list(tqdm(range(3), desc="Fetching files", disable=True)) == [0, 1, 2]
    assert reports == ["weights"]


def test_reports_of_transformers_are_logged_at_debug(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_model(tmp_path, "llama")
    set_config(folder, num_hidden_layers=12)
    capfd.readouterr()
    with caplog.at_level("DEBUG", "worker.models.loading_reports"):
        assert "90 of its 111 weights are in no file" in failure(folder)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())
    ours = [record for record in caplog.records if record.name == "worker.models.loading_reports"]
    assert [record.levelname for record in ours if "LOAD REPORT" in record.message] == ["DEBUG"]
