"""A backup that was made while the service ran brings back keys, stored rows and files on another folder."""

from pathlib import Path

import httpx2
from click.testing import CliRunner, Result

from cli.main import main
from common.settings import read_settings
from tests.chaos.harness import wait_until
from tests.service import RunningService


def omni_in(folder: Path, command: str, *words: str) -> Result:
    settings = read_settings({"OMNI_DATA_DIR": str(folder)})
    given = {"url": None, "key": None, "settings": lambda: settings}
    return CliRunner().invoke(main.commands[command], words, obj=given)


def wait_live(http: httpx2.Client) -> None:
    def is_live() -> bool:
        try:
            return http.get("/v1/jobs").status_code == 200
        except httpx2.HTTPError:
            return False

    wait_until(is_live, 60)


def test_what_was_there_at_the_backup_is_there_after_the_restore(tmp_path: Path) -> None:
    copied = str(tmp_path / "copy")
    (tmp_path / "old").mkdir()
    with RunningService(tmp_path / "old") as first:
        first.start("redis", "api")
        with first.http() as http:
            wait_live(http)
            upload = {"file": ("a.txt", b"kept bytes")}
            made = http.post("/v1/files", data={"purpose": "user_data"}, files=upload).json()["id"]
        assert omni_in(first.folder, "keys", "add", "alice").exit_code == 0
        done = omni_in(first.folder, "backup", copied)
        assert done.exit_code == 0 and "backed up in" in done.output, done.output
        again = omni_in(first.folder, "backup", copied)
        assert again.exit_code == 1 and "exists; name a new folder" in again.output
        refused = omni_in(first.folder, "restore", copied)
        assert refused.exit_code == 1 and "move it away first" in refused.output
        assert first.redis().config_get("auto-aof-rewrite-percentage")["auto-aof-rewrite-percentage"] == "50"
    (tmp_path / "new").mkdir(mode=0o700)
    assert omni_in(tmp_path / "new", "restore", copied).exit_code == 0
    with RunningService(tmp_path / "new") as second:
        second.start("redis", "api")
        with second.http() as http:
            wait_live(http)
            assert http.get(f"/v1/files/{made}/content").content == b"kept bytes"
        assert "alice" in omni_in(second.folder, "keys", "list").output
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "copy", tmp_path / "copy" / "omni.db"))


def test_a_folder_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    refused = omni_in(tmp_path / "data", "restore", str(tmp_path))
    assert refused.exit_code == 1 and "is no backup" in refused.output
    missing = omni_in(tmp_path / "nothing", "backup", str(tmp_path / "copy"))
    assert missing.exit_code == 1 and "does not exist" in missing.output and not (tmp_path / "copy").exists()
