"""What keys used, over the whole service: outbox, dispatcher, ledger, API and `omni usage`."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from common.records.accounts.owned import owned_rows, owned_tables
from common.records.database import Records
from common.redis.key_store import KeyLimits, KeyStore
from common.settings import Settings, read_settings
from tests import postgresql
from tests.service import RunningService

ADMIN = "sk-admin-of-usage"
HELLO = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RunningService]:
    """With PostgreSQL where it is installed, because all other tests of the service have SQLite."""
    settings = {"OMNI_ADMIN_KEYS": ADMIN}
    if postgresql.binaries() is not None:
        server: postgresql.PostgreSQL = request.getfixturevalue("postgresql_server")
        settings["OMNI_STORE_URL"] = server.new_database().replace("+psycopg", "")
    with RunningService(tmp_path_factory.mktemp("usage"), settings) as service:
        service.start("redis", "api", "worker", "dispatcher")
        service.wait_healthy()
        yield service


@pytest.fixture(scope="module")
def keys(running: RunningService) -> dict[str, str]:
    """Two keys that have used something."""
    store = KeyStore(running.redis())
    made = {name: store.add(name, KeyLimits(tokens_per_day=100_000)) for name in ("alice", "bob")}
    for name, number in (("alice", 3), ("bob", 1)):
        for _ in range(number):
            client_of(running, made[name]).chat.completions.create(
                model="omni-demo",
                messages=[HELLO],
                max_tokens=5,
                temperature=0,  # type: ignore[list-item]
            )
    return made


def client_of(running: RunningService, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key)


def settings_of(running: RunningService) -> Settings:
    return read_settings({name: value for name, value in running.env.items() if name.startswith("OMNI_")})


def omni(running: RunningService, *arguments: str) -> Result:
    settings = settings_of(running)
    given = {"url": running.url, "key": ADMIN, "settings": lambda: settings}
    command, *rest = arguments
    return CliRunner().invoke(main.commands[command], rest, obj=given)


def test_a_key_reads_its_own_usage_right_after_its_answer(running: RunningService, keys: dict[str, str]) -> None:
    with running.http() as http:
        used = http.get("/v1/usage", headers={"Authorization": f"Bearer {keys['alice']}"}).json()
        [result] = used["data"][-1]["results"]
        assert result["num_model_requests"] == 3 and 3 <= result["output_tokens"] <= 15
        assert result["input_tokens"] > 0 and result["num_failed"] == 0 and result["gpu_seconds"] > 0
        refused = http.get("/v1/usage?key=bob", headers={"Authorization": f"Bearer {keys['alice']}"})
        assert refused.status_code == 403
        answer = http.get("/v1/jobs", headers={"Authorization": f"Bearer {keys['alice']}"}).json()["data"][0]
        assert answer["cached_tokens"] >= 0 and answer["gpu_s"] > 0


def test_openai_s_client_reads_the_usage_of_all_keys(running: RunningService, keys: dict[str, str]) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=ADMIN, admin_api_key=ADMIN)
    page = client.admin.organization.usage.completions(
        start_time=0, end_time=2**31, group_by=["api_key_id", "model"], extra_query={"start_date": today(running)}
    )
    counts = {result.api_key_id: result.num_model_requests for result in page.data[-1].results}  # type: ignore[union-attr]
    assert sorted(counts.values()) == [1, 3]


def today(running: RunningService) -> str:
    with running.http() as http:
        bucket = http.get("/v1/usage").json()["data"][-1]
    from datetime import UTC, datetime

    return datetime.fromtimestamp(bucket["start_time"], UTC).strftime("%Y-%m-%d")


def test_an_admin_reads_one_key_as_csv(running: RunningService, keys: dict[str, str]) -> None:
    with running.http() as http:
        headers = {"Authorization": f"Bearer {ADMIN}", "Accept": "text/csv"}
        text = http.get("/v1/usage?key=bob", headers=headers).text
        [row] = csv.DictReader(io.StringIO(text))
        assert (row["key"], row["model"], row["requests"]) == ("bob", "omni-demo", "1")
        assert http.get("/v1/usage?key=nobody", headers=headers).status_code == 404


def test_omni_usage_shows_a_table_json_and_csv(running: RunningService, keys: dict[str, str]) -> None:
    table = omni(running, "usage")
    assert table.exit_code == 0, table.output
    assert "alice" in table.output and "total" in table.output
    assert omni(running, "usage", "--csv", "--of", "alice").output.startswith("day,key,model,tier,requests")
    assert '"object": "page"' in omni(running, "usage", "--json", "--by", "key").output


def test_metrics_count_tokens_by_the_key_s_name(running: RunningService, keys: dict[str, str]) -> None:
    with running.http() as http:
        text = http.get("/metrics", headers={"Authorization": f"Bearer {ADMIN}"}).text
    assert 'omni:key_tokens_total{key="alice",kind="completion"}' in text


def test_a_key_is_exported_and_purged_with_all_that_it_owns(
    running: RunningService, keys: dict[str, str], tmp_path: Path
) -> None:
    store, redis = KeyStore(running.redis()), running.redis()
    carol = store.add("carol", KeyLimits())
    owner = next(record.owner for record in store.all() if record.name == "carol")
    with client_of(running, carol) as client:
        file = client.files.create(file=("notes.txt", b"hers"), purpose="user_data")
        client.chat.completions.create(model="omni-demo", messages=[HELLO], max_tokens=3, store=True)  # type: ignore[list-item]
        endless = {"background": True, "ignore_eos": True}
        client.completions.create(model="omni-demo", prompt="a", max_tokens=900, extra_body=endless)
        exported = omni(running, "keys", "export", "carol", "--out", str(tmp_path / "carol"))
        assert exported.exit_code == 0, exported.output
        assert (tmp_path / "carol" / "files" / file.id).read_bytes() == b"hers"
        assert len((tmp_path / "carol" / "jobs.jsonl").read_text().splitlines()) == 2
        assert omni(running, "keys", "purge", "carol").exit_code == 1, "it asks"
        purged = omni(running, "keys", "purge", "carol", "--yes")
        assert purged.exit_code == 0, purged.output
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    left = {key.decode() for key in redis.scan_iter("*") if owner.encode() in key}
    left |= {key.decode() for key in redis.scan_iter("omni:job:*") if redis.hget(key, "owner") == owner.encode()}
    assert left == set()
    records = Records(settings_of(running).store_url)
    assert [table.name for table in owned_tables() if list(owned_rows(records, table, owner))] == []
    assert not list(running.folder.rglob(f"{file.id}*"))
    assert "alice" in omni(running, "usage").output, "others keep theirs"
    assert omni(running, "keys", "purge", owner, "--yes").exit_code == 0, "it may be done again, by the owner"


def test_while_the_dispatcher_is_away_usage_says_until_when_it_counts(
    running: RunningService, keys: dict[str, str]
) -> None:
    running.processes["dispatcher"].terminate()
    running.processes["dispatcher"].wait(10)
    client_of(running, keys["bob"]).completions.create(model="omni-demo", prompt="a", max_tokens=1)
    with running.http() as http:
        own = {"Authorization": f"Bearer {keys['bob']}"}
        stale = http.get("/v1/usage", headers=own).json()
        assert sum(result["num_model_requests"] for result in stale["data"][-1]["results"]) == 1
        running.spawn("dispatcher")
        while (fresh := http.get("/v1/usage", headers=own).json())["as_of"] < stale["as_of"] + 1:
            pass
        assert fresh["data"][-1]["results"][0]["num_model_requests"] == 2
