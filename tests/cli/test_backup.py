"""A backup that was made while the service ran brings back keys, stored rows and files on another folder."""

import re
import threading
from contextlib import nullcontext, suppress
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner, Result
from redis.exceptions import ResponseError
from sqlalchemy import select

from cli import backup
from cli.main import main
from common.records.database import Records, insert_or_replace
from common.records.schema import meta
from common.settings import read_settings
from tests.chaos.harness import wait_until
from tests.service import RunningService


def omni_in(folder: Path, command: str, *words: str, **more: str) -> Result:
    settings = read_settings({"OMNI_DATA_DIR": str(folder), **more})
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
    (tmp_path / "new").mkdir(mode=0o700)
    assert omni_in(tmp_path / "new", "restore", copied).exit_code == 0
    with RunningService(tmp_path / "new") as second:
        second.start("redis", "api")
        with second.http() as http:
            wait_live(http)
            assert http.get(f"/v1/files/{made}/content").content == b"kept bytes"
        assert "alice" in omni_in(second.folder, "keys", "list").output
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "copy", tmp_path / "copy" / "omni.db"))


class Writers:
    """Write as the dispatcher does, as fast as they can: to the store first, then it leaves Redis's outbox."""

    def __init__(self, service: RunningService) -> None:
        self.folder = service.folder / "appendonlydir"
        self.redis = service.redis()
        self.records = Records(f"sqlite:///{service.folder}/omni.db")
        self.is_stopping = threading.Event()
        self.num_written = 0
        self.threads = [threading.Thread(target=work) for work in (self.apply, self.fill)]

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        wait_until(lambda: self.num_written > 3)
        return self

    def __exit__(self, *_: object) -> None:
        self.is_stopping.set()
        for thread in self.threads:
            thread.join()

    def apply(self) -> None:
        while not self.is_stopping.is_set():
            number = self.num_written + 1
            with self.records.begin() as connection:
                for name in ("one", "other"):
                    insert_or_replace(connection, meta, {"name": name, "value": str(number)})
            with self.redis.pipeline(transaction=True) as pipeline:
                pipeline.set("one", number).set("other", number).execute()
            self.num_written = number

    def fill(self) -> None:
        """Many keys of some kB: 1 MB in a step."""
        number = 0
        while not self.is_stopping.is_set():
            with self.redis.pipeline(transaction=False) as pipeline:
                for _ in range(100):
                    number += 1
                    pipeline.set(f"filled:{number % 1000}", b"x" * 10_000)
                pipeline.execute()

    def rewrite(self) -> None:
        """Valkey replaces its files, and removes the old ones."""

        def is_done() -> bool:
            found = self.redis.info("persistence")
            return not (found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"])

        def begins() -> bool:
            nonlocal before
            before = {path.name for path in self.folder.glob("*.aof")}
            with suppress(ResponseError):  # because it does so already, with so much written
                return bool(self.redis.bgrewriteaof())
            return False

        before: set[str] = set()
        wait_until(begins, 60)
        wait_until(is_done, 60)
        wait_until(lambda: not before & {path.name for path in self.folder.glob("*.aof")}, 60)


def restored(copied: Path, folder: Path) -> tuple[list[int], list[int]]:
    """The two numbers that Redis has, and the store's."""
    folder.mkdir(mode=0o700)
    done = omni_in(folder, "restore", str(copied))
    assert done.exit_code == 0, done.output
    with RunningService(folder) as second:
        second.start("redis")
        redis = second.redis()
        wait_until(redis.ping, 60)
        in_redis = [int(redis.get(name) or 0) for name in ("one", "other")]
    with Records(f"sqlite:///{folder}/omni.db").read() as connection:
        rows = dict(tuple(row) for row in connection.execute(select(meta.c.name, meta.c.value)))
    return in_redis, [int(rows[name]) for name in ("one", "other")]


@pytest.mark.parametrize("is_held", [True, False])
def test_a_backup_under_heavy_writing_is_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    """Valkey rewrites its file between the manifest and the copy. The control copies the folder as it stands."""
    (tmp_path / "old").mkdir()
    with RunningService(tmp_path / "old") as service:
        service.start("redis")
        wait_until(service.redis().ping, 60)
        with Writers(service) as writers:
            copy, num_calls = backup.copy, 0

            def copy_late(source: Path, target: Path) -> None:
                nonlocal num_calls
                num_calls += 1
                names = list(source.iterdir()) if source.is_dir() else []
                if num_calls == 1:
                    target.mkdir(mode=0o700)
                    writers.rewrite()
                    for path in names:
                        with suppress(FileNotFoundError):
                            copy(path, target / path.name)
                else:
                    copy(source, target)

            monkeypatch.setattr(backup, "copy", copy_late)
            if not is_held:
                monkeypatch.setattr(backup, "held", nullcontext)
            before = writers.num_written
            done = omni_in(service.folder, "backup", str(tmp_path / "copy"))
            assert done.exit_code == 0, done.output
            after = writers.num_written + 1
        assert not (service.folder / "appendonlydir" / "backup").exists()
    if not is_held:
        kept = {path.name for path in (tmp_path / "copy" / "appendonlydir").iterdir()}
        named = re.findall(r"^file (\S+)", (tmp_path / "copy" / "appendonlydir" / backup.MANIFEST).read_text(), re.M)
        assert not set(named) <= kept, "the copy lacks files that its manifest names"
        return
    in_redis, stored = restored(tmp_path / "copy", tmp_path / "new")
    assert len({*in_redis}) == len({*stored}) == 1, "no half of a transaction"
    assert before <= in_redis[0] <= stored[0] <= after, "what had left Redis is in the store"


def test_a_folder_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    refused = omni_in(tmp_path / "data", "restore", str(tmp_path))
    assert refused.exit_code == 1 and "is no backup" in refused.output
    missing = omni_in(tmp_path / "nothing", "backup", str(tmp_path / "copy"))
    assert missing.exit_code == 1 and "does not exist" in missing.output and not (tmp_path / "copy").exists()


def test_store_and_files_come_back_to_where_the_settings_have_them(tmp_path: Path) -> None:
    """Also outside OMNI_DATA_DIR. A part that has no place here is refused."""
    (tmp_path / "data").mkdir(mode=0o700)
    elsewhere = {
        "OMNI_STORE_URL": f"sqlite:///{tmp_path}/srv/omni.db",
        "OMNI_FILES_URL": f"file://{tmp_path}/srv/files",
    }
    with Records(elsewhere["OMNI_STORE_URL"]).begin():
        pass
    (tmp_path / "srv" / "files").mkdir()
    (tmp_path / "srv" / "files" / "a").write_bytes(b"kept")
    assert omni_in(tmp_path / "data", "backup", str(tmp_path / "copy"), **elsewhere).exit_code == 0
    refused = omni_in(tmp_path / "data", "restore", str(tmp_path / "copy"), **elsewhere)
    assert refused.exit_code == 1 and f"{tmp_path}/srv/omni.db and " in refused.output
    lost = {"OMNI_STORE_URL": "postgresql://127.0.0.1:1/no"}
    refused = omni_in(tmp_path / "data", "restore", str(tmp_path / "copy"), **lost)
    assert refused.exit_code == 1 and "OMNI_STORE_URL leads to PostgreSQL. Unset that" in refused.output
    (tmp_path / "srv").rename(tmp_path / "old")
    assert omni_in(tmp_path / "data", "restore", str(tmp_path / "copy"), **elsewhere).exit_code == 0
    assert (tmp_path / "srv" / "files" / "a").read_bytes() == b"kept" and (tmp_path / "srv" / "omni.db").exists()
    assert not (tmp_path / "data" / "omni.db").exists()
