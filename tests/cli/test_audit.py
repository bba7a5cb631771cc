"""omni audit: commands that change keys are in the same log as what admin keys change through the API."""

import getpass
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from common.records.audit import WantedChanges, changes
from common.records.database import Records
from common.settings import read_settings
from tests.service import RunningService


def test_what_commands_and_admin_keys_change_is_shown(omni, service: RunningService) -> None:
    key = omni("keys", "add", "audited", "--max-queued", "5").stdout.strip()
    assert omni("keys", "limits", "audited", "--admin").exit_code == 0
    assert omni("keys", "revoke", "audited").exit_code == 0
    assert omni("keys", "add", "x" * 65).exit_code == 1
    found = omni("audit", "--on", "audited", "--on", "x" * 65, "--json").stdout
    assert key and key not in found
    entries = json.loads(found)
    assert [(entry["type"], entry["outcome"], entry["code"]) for entry in entries] == [
        ("key.create", "failed", "invalid_request"),
        ("key.revoke", "succeeded", None),
        ("key.limit", "succeeded", None),
        ("key.create", "succeeded", None),
    ]
    assert entries[3]["details"] == {"max_queued": 5} and entries[3]["actor"]["session"]["ip_address"] is None
    assert entries[3]["actor"]["session"]["user"]["id"].startswith(f"{getpass.getuser()}@")
    shown = omni("audit", "--on", "audited", "--what", "key.create", "--since", "2026-01-01").stdout
    assert "max_queued=5" in shown and "key.revoke" not in shown
    assert len(json.loads(omni("audit", "--limit", "2", "--json").stdout)) == 2


def test_keys_do_not_change_while_the_log_cannot_be_written(omni, service: RunningService, monkeypatch) -> None:
    monkeypatch.setattr(Records, "begin", lambda _: Records("postgresql+psycopg://127.0.0.1:1/no").read())
    refused = omni("keys", "add", "unaudited")
    assert refused.exit_code == 1 and "Nothing was done" in refused.stderr
    monkeypatch.undo()
    assert "unaudited" not in omni("keys", "list").stdout


def entries_of(folder: Path) -> list[tuple[str, str, str]]:
    """What, on what and with which outcome; the oldest first."""
    with Records(f"sqlite:///{folder}/omni.db").read() as connection:
        found = changes(connection, WantedChanges(), 50)
    return [(row.action, row.target, row.outcome) for row in reversed(found)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a service that has run, and has a table of one model."""
    (folder := tmp_path / "data").mkdir(mode=0o700)
    with Records(f"sqlite:///{folder}/omni.db").begin():
        pass
    (tmp_path / "models.toml").write_text('[[model]]\nid = "a"\nmodel = "demo"\n')
    monkeypatch.setenv("OMNI_MODELS", str(tmp_path / "models.toml"))
    monkeypatch.setenv("OMNI_DATA_DIR", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def omni_without_service(folder: Path, command: str, *words: str) -> Result:
    settings = lambda: read_settings({"OMNI_DATA_DIR": str(folder), "OMNI_PORT": "1"})  # noqa: E731
    return CliRunner().invoke(main.commands[command], words, obj={"url": None, "key": None, "settings": settings})


def test_edits_of_the_table_are_in_the_log_or_are_not_made(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert omni_without_service(data, "models", "add", "owner/name").exit_code == 0
    assert omni_without_service(data, "models", "remove", "a").exit_code == 0
    assert omni_without_service(data, "models", "remove", "nmae").exit_code == 1
    told = [("model.add", "name", "succeeded"), ("model.remove", "a", "succeeded"), ("model.remove", "nmae", "failed")]
    assert entries_of(data) == told
    before = Path("models.toml").read_text()
    monkeypatch.setenv("OMNI_STORE_URL", "postgresql://user:secret@127.0.0.1:1/no")
    refused = omni_without_service(data, "models", "add", "owner/other")
    assert refused.exit_code == 1 and "Nothing was done" in refused.stderr and "secret" not in refused.stderr
    assert Path("models.toml").read_text() == before


def test_where_no_service_has_run_no_log_is_made(data: Path) -> None:
    (data / "omni.db").unlink()
    assert omni_without_service(data, "models", "add", "owner/name").exit_code == 0
    assert not (data / "omni.db").exists()


def test_a_backup_and_its_restore_are_in_the_log_that_stays(data: Path, tmp_path: Path) -> None:
    copied, new = tmp_path / "copy", tmp_path / "new"
    new.mkdir(mode=0o700)
    assert omni_without_service(data, "backup", str(copied)).exit_code == 0
    assert omni_without_service(data, "backup", str(copied)).exit_code == 1
    assert entries_of(data) == [("service.backup", str(copied), "succeeded")]
    assert omni_without_service(new, "restore", str(copied)).exit_code == 0
    assert entries_of(new) == [("service.backup", str(copied), "begun"), ("service.restore", str(copied), "succeeded")]
