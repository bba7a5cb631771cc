"""The audit log: every route by which an admin key changes what is not its own, before and after the change."""

import inspect
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from redis import Redis
from sqlalchemy import insert, select
from sqlalchemy.exc import OperationalError

from api.audit import AuditLog
from api.prompt.encoder import PromptEncoder
from common.records import audit
from common.records.audit import KEPT_S, AuditedChange, recorded
from common.records.database import Records
from common.records.schema import audit_log
from common.settings import read_settings
from dispatcher import housekeeping
from tests.api.shelves import ShelvedApi

SECRET = "T0KEN-IN-A-PATH"
HOOK = {"name": "mine", "url": f"http://127.0.0.1:1/{SECRET}", "event_types": ["batch.completed"]}
CHAT = {"model": "org/a", "messages": [{"role": "user", "content": "A text of a caller's."}], "background": True}
LINE = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT | {"background": False}}
MESSAGE = {"model": "org/a", "max_tokens": 5, "messages": CHAT["messages"]}


class Admin:
    """Sends what CASES say, after another key has made what they need."""

    def __init__(self, api: ShelvedApi) -> None:
        self.api = api

    def of_other(self, path: str, body: Any) -> str:
        answer = self.api.send("POST", path, body, key="sk-local")
        assert answer.status_code in (200, 202), answer.get_json()
        return str(answer.get_json()["id"])

    def job(self) -> str:
        return f"/v1/jobs/{self.of_other('/v1/chat/completions', CHAT)}"

    def batch(self) -> str:
        http = httpx2.Client(transport=httpx2.WSGITransport(app=self.api.app))
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="sk-local", http_client=http)
        file = client.files.create(file=("a.jsonl", json.dumps(LINE).encode()), purpose="batch")
        asked = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return f"/v1/batches/{self.of_other('/v1/batches', asked)}/cancel"

    def message_batch(self) -> str:
        asked = {"requests": [{"custom_id": "1", "params": MESSAGE}]}
        return f"/v1/messages/batches/{self.of_other('/v1/messages/batches', asked)}/cancel"

    def endpoint(self, rest: str = "") -> str:
        return f"/v1/webhook_endpoints/{self.of_other('/v1/webhook_endpoints', HOOK)}{rest}"


Case = tuple[str, str | Callable[[Admin], str], Any]  # the action, the path, the body
ENDPOINT = "/v1/webhook_endpoints/<endpoint_id>"
CASES: dict[str, Case] = {
    "POST /v1/models/<path:name>/load": ("model.load", "/v1/models/b/load", {"keep_alive": 60}),
    "POST /v1/models/<path:name>/unload": ("model.unload", "/v1/models/org/a/unload", None),
    "POST /v1/models/<path:name>/pin": ("model.pin", "/v1/models/b/pin", None),
    "POST /v1/models/<path:name>/unpin": ("model.unpin", "/v1/models/b/unpin", None),
    "POST /models/load": ("model.load", "/models/load", {"model": "b"}),
    "POST /models/unload": ("model.unload", "/models/unload", {"model": "b"}),
    "POST /v1/load_lora_adapter": (
        "adapter.load", "/v1/load_lora_adapter", {"lora_name": "n", "lora_path": "/p", "base_model": "b"},
    ),
    "POST /v1/unload_lora_adapter": ("adapter.unload", "/v1/unload_lora_adapter", {"lora_name": "sql"}),
    "DELETE /v1/jobs/<job_id>": ("job.cancel", Admin.job, None),
    "POST /v1/batches/<batch_id>/cancel": ("batch.cancel", Admin.batch, None),
    "POST /v1/messages/batches/<batch_id>/cancel": ("batch.cancel", Admin.message_batch, None),
    "POST /v1/webhook_endpoints": (
        "webhook_endpoint.create", "/v1/webhook_endpoints", HOOK | {"scope": "all", "event_types": ["*"]},
    ),
    f"POST {ENDPOINT}": (
        "webhook_endpoint.update", Admin.endpoint, {"disabled": True, "url": f"http://127.0.0.2/{SECRET}"},
    ),
    f"DELETE {ENDPOINT}": ("webhook_endpoint.delete", Admin.endpoint, None),
    f"POST {ENDPOINT}/rotate_secret": (
        "webhook_endpoint.rotate_secret", lambda admin: admin.endpoint("/rotate_secret"), None,
    ),
    f"POST {ENDPOINT}/test": (
        "webhook_endpoint.test", lambda admin: admin.endpoint("/test"), {"event_type": "batch.completed"},
    ),
    f"POST {ENDPOINT}/deliveries/<delivery_id>/redeliver": (
        "webhook_endpoint.redeliver", lambda admin: admin.endpoint("/deliveries/whd_1/redeliver"), None,
    ),
}  # fmt: skip
RIGHTS = re.compile(r"keys\.admin\(|is_admin|visible_to")


@pytest.fixture
def api(redis: "Redis", valkey_url: str, tmp_path: Path, encoder: PromptEncoder) -> ShelvedApi:
    return ShelvedApi(redis, valkey_url, tmp_path, encoder.card, OMNI_WEBHOOK_HOSTS="127.0.0.0/8")


def rows(api: ShelvedApi) -> list[Any]:
    records: Records = api.app.extensions["omni"].records
    with records.read() as connection:
        return list(connection.execute(select(audit_log).order_by(audit_log.c.number)))


def sent(api: ShelvedApi, rule: str, key: str = "sk-admin") -> tuple[str, Any]:
    """The action that must be recorded, and the answer."""
    action, path, body = CASES[rule]
    place = path if isinstance(path, str) else path(Admin(api))
    return action, api.send(rule.partition(" ")[0], place, body, key=key)


def test_each_route_that_changes_something_is_audited_or_needs_no_admin(api: ShelvedApi) -> None:
    found = set()
    for rule in api.app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}:
            name = f"{method} {rule.rule}"
            found.add(name)
            if name not in CASES:
                source = inspect.getsource(api.app.view_functions[rule.endpoint])
                assert not RIGHTS.search(source), f"{name} acts by an admin's right: audit it, and add it to CASES"
    assert set(CASES) <= found


@pytest.mark.parametrize("rule", CASES)
def test_a_change_by_an_admin_is_recorded_with_who_what_when_from_where_and_its_outcome(
    api: ShelvedApi, rule: str
) -> None:
    action, answer = sent(api, rule)
    [row] = rows(api)
    assert (row.actor, row.address, row.action) == ("admin 1", "127.0.0.1", action)
    assert row.target and abs(row.at - time.time()) < 60 and row.ended >= row.at
    assert (row.outcome == "succeeded") == (answer.status_code < 400), (row, answer.get_json(silent=True))
    assert row.request_id == answer.headers["X-Request-Id"] and (row.code is None) == (row.outcome == "succeeded")
    text = str([tuple(each) for each in rows(api)])
    assert not re.search(rf"sk-|whsec_|{SECRET}|A text of", text), text


@pytest.mark.parametrize("rule", ["POST /v1/models/<path:name>/load", "DELETE /v1/jobs/<job_id>", f"DELETE {ENDPOINT}"])
def test_nothing_is_changed_while_the_log_cannot_be_written(
    api: ShelvedApi, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    def away(*_: object) -> int:
        raise OperationalError("", {}, Exception("away"))

    monkeypatch.setattr(audit, "begin_change", away)
    _, answer = sent(api, rule)
    assert answer.status_code == 503 and not api.take_orders()
    jobs = api.send("GET", "/v1/jobs", key="sk-local").get_json()["data"]
    assert {job["state"] for job in jobs} <= {"queued"}
    assert len(api.send("GET", "/v1/webhook_endpoints").get_json()["data"]) == (rule == f"DELETE {ENDPOINT}")


def test_a_change_whose_process_dies_stays_with_an_unknown_outcome(
    api: ShelvedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: object) -> None:
        raise OperationalError("", {}, Exception("away"))

    monkeypatch.setattr(audit, "end_change", dead)
    assert sent(api, "POST /v1/models/<path:name>/pin")[1].status_code == 202
    [entry] = api.send("GET", "/v1/audit_logs").get_json()["data"]
    assert (entry["outcome"], entry["ended_at"], entry["type"]) == ("unknown", None, "model.pin")


def test_what_needs_no_admin_s_right_is_not_recorded(api: ShelvedApi) -> None:
    other = Admin(api)
    for method, path in (("DELETE", other.job()), ("DELETE", other.endpoint()), ("POST", other.batch())):
        assert api.send(method, path, key="sk-local").status_code == 200
    answer = api.send("POST", "/v1/chat/completions", CHAT)
    assert api.send("DELETE", f"/v1/jobs/{answer.get_json()['id']}").status_code == 200
    assert api.send("POST", "/v1/models/b/load", key="sk-local").status_code == 403
    assert rows(api) == []


def test_without_the_mechanism_these_tests_would_fail(api: ShelvedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AuditLog, "change", lambda *_, **__: nullcontext())
    sent(api, "DELETE /v1/jobs/<job_id>")
    assert rows(api) == []


def test_openai_s_client_reads_the_log_in_pages_and_filters_it(api: ShelvedApi) -> None:
    for action in ("pin", "unpin", "load"):
        api.send("POST", f"/v1/models/b/{action}")
    http = httpx2.Client(transport=httpx2.WSGITransport(app=api.app))
    client = openai.OpenAI(base_url="http://localhost/v1", api_key="-", admin_api_key="sk-admin", http_client=http)
    logs = client.admin.organization.audit_logs
    assert [entry.type for entry in logs.list(limit=1)] == ["model.load", "model.unpin", "model.pin"]
    [entry] = logs.list(event_types=["model.pin"], effective_at={"gte": int(time.time()) - 60})  # type: ignore[list-item]
    assert entry.actor and entry.actor.api_key and entry.to_dict()["resource_id"] == "b"
    assert list(logs.list(effective_at={"lt": int(time.time()) - 60})) == []
    assert len(list(logs.list(actor_ids=["admin 1"], resource_ids=["b"]))) == 3 and not list(logs.list(actor_ids=["x"]))


@pytest.mark.parametrize("query", ["after=x", "limit=0", "effective_at[gte]=soon", "project_ids[]=1"])
def test_a_wrong_question_is_refused_by_name(api: ShelvedApi, query: str) -> None:
    answer = api.send("GET", f"/v1/audit_logs?{query}")
    assert answer.status_code == 400 and answer.get_json()["error"]["param"] == query.partition("=")[0]


def test_only_admins_read_it(api: ShelvedApi) -> None:
    assert api.send("GET", "/v1/audit_logs", key="sk-local").status_code == 403


def test_entries_are_kept_for_400_days_and_longer_where_the_store_s_time_is_longer(
    records: Records, tmp_path: Path
) -> None:
    @contextmanager
    def aged(days: float) -> Iterator[None]:
        with recorded(records, AuditedChange("a", "key.create", str(days))):
            yield
        with records.begin() as connection:
            [row] = connection.execute(select(audit_log).where(audit_log.c.target == str(days))).mappings()
            connection.execute(audit_log.delete().where(audit_log.c.number == row["number"]))
            connection.execute(insert(audit_log).values({**row, "at": time.time() - days * 86400}))

    def left(ttl: float) -> set[str]:
        given = {"OMNI_DATA_DIR": str(tmp_path), "OMNI_STORE_TTL": str(int(ttl))}
        housekeeping.run(read_settings(given), records)
        with records.read() as connection:
            return set(connection.execute(select(audit_log.c.target)).scalars())

    for days in (0.0, 399.0, 401.0, 501.0):
        with aged(days):
            pass
    assert left(KEPT_S + 100 * 86400) == {"0.0", "399.0", "401.0"}
    assert left(86400) == {"0.0", "399.0"}
