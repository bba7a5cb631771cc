"""A new version of the code in the place of the old one, and back, while jobs run and wait: none is lost or doubled.

The later version is a copy of this checkout with what versions add: another number, a table in the store, a field of
requests, of cards and of final events. The copy is changed in place, as by `git pull`, and each process is replaced as
docs/operations/upgrade.md says.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx2
import pytest
from sqlalchemy import text

from common import __version__
from common.errors import WireError
from common.records.database import Records
from common.records.migrate import SchemaTooNew
from common.wire_codec import decode_request
from tests.chaos.client import Api, Client, History
from tests.chaos.fake_worker import expected_text
from tests.chaos.harness import wait_until
from tests.service import ROOT, RunningService

pytestmark = pytest.mark.timeout(300)

LATER = "99.0.0"
NUM_TOKENS, NUM_CLIENTS, NUM_AT_ONCE = 300, 4, 3  # so that some jobs wait
MIGRATIONS = Path("common/records/migrations/versions")
MIGRATION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "9000", "{head}"
{usable_by}
def upgrade():
    op.create_table("later", sa.Column("id", sa.Integer(), primary_key=True))
"""


class Checkout:
    """Code in a folder, which upgrade() and rollback() replace in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("api", "common", "dispatcher", "worker", "demo", "tests/chaos"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("__init__.py", "service.py"):
            shutil.copy(ROOT / "tests" / name, folder / "tests" / name)

    def upgrade(self, *, careless: bool = False) -> None:
        """`careless`: the migration says nothing of the version before, and each request has the new field."""
        self._change("common/__init__.py", __version__, LATER)
        self._change("common/wire.py", "    is_flex: bool = False", "    later: int = 0\n    is_flex: bool = False")
        self._change(
            "common/wire.py", "    cached_tokens: int = 0\n", "    cached_tokens: int = 0\n    later: int = 1\n"
        )
        self._change("common/wire.py", '    packing: str = ""', '    later: str = "a"\n    packing: str = ""')
        if not careless:
            self._change("common/wire_codec.py", '{"is_flex": False', '{"later": 0, "is_flex": False')
        head = max(path.stem for path in (ROOT / MIGRATIONS).glob("0*.py"))[:4]
        usable_by = "" if careless else f'usable_by = "{head}"'
        (self.folder / MIGRATIONS / "9000_later.py").write_text(MIGRATION.format(head=head, usable_by=usable_by))

    def rollback(self) -> None:
        (self.folder / MIGRATIONS / "9000_later.py").unlink()
        for name in ("common/__init__.py", "common/wire.py", "common/wire_codec.py"):
            shutil.copyfile(ROOT / name, self.folder / name)

    def _change(self, name: str, old: str, new: str) -> None:
        whole = (self.folder / name).read_text()
        assert whole.count(old) >= 1, (name, old)
        (self.folder / name).write_text(whole.replace(old, new, 1))


class Deployed(RunningService):
    """The real processes from a checkout, with a worker whose engine has no weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data", {"OMNI_MODEL_NAME": "fake", "CHAOS_STEP_S": "0.02"})
        self.env |= {"OMNI_MAX_NUM_SEQS": str(NUM_AT_ONCE), "OMNI_API_KEYS": "sk-chaos"}
        self.key = "sk-chaos"
        self.checkout = Checkout(folder / "code")
        self.code = self.checkout.folder
        self.records = Records(f"sqlite:///{self.folder}/omni.db")

    @staticmethod
    def command(name: str, api_module: str = "api.server") -> list[str]:
        command = RunningService.command(name, api_module)
        return [word if word != "worker.main" else "tests.chaos.fake_worker" for word in command]

    def replace(self, *names: str) -> None:
        """As `systemctl restart` does, and `systemctl reload` for the API."""
        for name in names:
            if name == "api":
                self.processes["api"].send_signal(signal.SIGHUP)
                continue
            self.processes[name].terminate()
            self.processes[name].wait(30)
            self.spawn(name)

    def wait_for(self, version: str) -> None:
        """Until API processes of this version answer, with a worker, and no others."""

        found, deadline = set[str](), time.monotonic() + 120
        while found != {version}:
            assert time.monotonic() < deadline, f"version {version} does not serve"
            time.sleep(0.1)
            with suppress(OSError):
                found = {json.load(urlopen(f"{self.url}/health", timeout=5))["version"] for _ in range(3)}

    def schema(self) -> str:
        with self.records.read() as connection:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    (tmp_path / "data").mkdir(mode=0o700)
    with Deployed(tmp_path) as running:
        yield running.start("redis", "api", "worker", "dispatcher")


async def begun(api: Api, first_seed: int) -> tuple[list[History], "asyncio.Task[Any]"]:
    """Streams of which some run and some wait, and the task that reads them to their ends."""
    histories = [History(first_seed + number, NUM_TOKENS, "stream") for number in range(NUM_CLIENTS)]
    reading = asyncio.gather(*(Client(api, history).stream() for history in histories))
    await asyncio.to_thread(wait_until, lambda: sum(len(one.frames) > 5 for one in histories) >= NUM_AT_ONCE, 60)
    assert not all(one.frames for one in histories), "none waits"
    return histories, asyncio.ensure_future(reading)


def batch_of(http: httpx2.Client, prefix: str) -> str:
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "seed": 1}
    lines = [
        {"custom_id": f"{prefix}{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(3)
    ]
    file = ("a.jsonl", "\n".join(map(json.dumps, lines)).encode())
    uploaded = http.post("/v1/files", data={"purpose": "batch"}, files={"file": file}).json()
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": uploaded["id"]}
    return str(http.post("/v1/batches", json=asked).json()["id"])


def check_batch(http: httpx2.Client, batch_id: str, prefix: str) -> None:
    found, deadline = http.get(f"/v1/batches/{batch_id}").json(), time.monotonic() + 120
    while found["status"] != "completed":
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
        found = http.get(f"/v1/batches/{batch_id}").json()
    assert found["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    results = http.get(f"/v1/files/{found['output_file_id']}/content").text.splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in results) == [f"{prefix}{number}" for number in range(3)]


def check_whole(histories: list[History]) -> None:
    """Each client has read each token once, in order, and counts them once."""
    for history in histories:
        assert (history.error, history.complaints) == (None, []), history
        assert history.text == expected_text(history.seed, NUM_TOKENS)
        assert history.usage is not None and history.usage["completion_tokens"] == NUM_TOKENS
    assert any(history.num_resumes for history in histories), "nothing was replaced in the middle of an answer"


def test_a_version_is_brought_in_and_taken_back_with_jobs_in_flight(deployed: Deployed) -> None:
    async def run() -> None:
        api = Api(deployed.port)
        await asyncio.to_thread(deployed.wait_for, __version__)
        with deployed.http() as http:
            batches = {"old": batch_of(http, "old")}
            histories, reading = await begun(api, 100)
            deployed.checkout.upgrade()
            await asyncio.to_thread(deployed.replace, "worker", "api", "dispatcher")
            await asyncio.to_thread(deployed.wait_for, LATER)
            await asyncio.wait_for(reading, 120)
            check_whole(histories)
            await asyncio.to_thread(check_batch, http, batches["old"], "old")
            assert deployed.schema() == "9000"

            batches["new"] = batch_of(http, "new")
            histories, reading = await begun(api, 200)
            deployed.checkout.rollback()
            await asyncio.to_thread(deployed.replace, "dispatcher", "api", "worker")
            await asyncio.to_thread(deployed.wait_for, __version__)
            await asyncio.wait_for(reading, 120)
            check_whole(histories)
            await asyncio.to_thread(check_batch, http, batches["new"], "new")
            usage = http.get("/v1/usage?group_by=model").json()["data"][-1]["results"][0]
            assert usage["num_model_requests"] == 2 * (NUM_CLIENTS + 3) and usage["num_failed"] == 0
            assert usage["output_tokens"] == 2 * (NUM_CLIENTS * NUM_TOKENS + 3 * 5)
            assert deployed.schema() == "9000"  # the store stays as the later version left it

    asyncio.run(run())


def test_a_careless_later_version_cannot_be_taken_back(tmp_path: Path) -> None:
    """The control of the test above: what the migration and the wire must say, and what happens if they do not."""
    checkout, store = Checkout(tmp_path / "code"), f"sqlite:///{tmp_path}/omni.db"
    checkout.upgrade(careless=True)
    opened = f"from common.records.database import Records; Records({store!r}).engine()"
    request = 'encode_request(GenerationRequest("i", "m", (1,), SamplingParams(5, 0)))'
    sent = f"from common.wire import *; from common.wire_codec import *; print({request}.decode())"
    done = subprocess.run(
        [sys.executable, "-c", f"{opened}; {sent}"], cwd=checkout.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(SchemaTooNew, match="schema 9000"):
        Records(store).engine()
    with pytest.raises(WireError, match="later"):
        decode_request(done.stdout)
