"""/v1/messages/batches on the wire; the `anthropic` package reads it in tests/conformance."""

import json
import time
from datetime import datetime

import pytest
from sqlalchemy import select, update

from api.batches.objects import KEPT_S, NO_DISPATCHER
from api.schema.batch.answers import MessageBatchAnswer
from common.records.files import FileRecord, add_file
from common.records.schema import batches, files
from common.redis.keys import owner_of
from tests.api.sdk import application, http_client

PATH = "/v1/messages/batches"


def requests_of(number):
    params = {"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}
    return {"requests": [{"custom_id": f"r{at}", "params": params} for at in range(number)]}


@pytest.fixture
def app(redis, valkey_url, tmp_path):  # without what a test before left, such as the lease of a dispatcher
    return application(valkey_url, tmp_path)


@pytest.fixture
def web(app):
    return http_client(app)


def names(tmp_path):
    folder = tmp_path / "files"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def change(app, batch_id, **values):
    with app.extensions["omni"].records.begin() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(**values))


def end(app, batch_id, lines, **values):
    """As the dispatcher ends a batch."""
    service, file_id = app.extensions["omni"], f"file-{batch_id}"
    with service.files.create(file_id) as pending:
        pending.write(lines)
    record = FileRecord(file_id, owner_of("sk-local"), 1.0, None, len(lines), "r.jsonl", "message_batch_output")
    with service.records.begin() as connection:
        add_file(connection, record)
    change(app, batch_id, output_file_id=file_id, **values)


def test_a_new_batch_is_in_progress_and_its_requests_are_lines_of_a_file(app, web, tmp_path):
    made = web.post(PATH, json=requests_of(3)).json()
    MessageBatchAnswer.model_validate(made, extra="forbid")
    assert made == {
        "id": made["id"],
        "type": "message_batch",
        "processing_status": "in_progress",
        "request_counts": {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
        "created_at": made["created_at"],
        "expires_at": made["expires_at"],
        "cancel_initiated_at": None,
        "ended_at": None,
        "archived_at": None,
        "results_url": None,
        "waiting_for": NO_DISPATCHER,
    }
    created, expires = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert made["id"].startswith("msgbatch_") and made["created_at"].endswith("Z")
    assert (expires - created).total_seconds() == pytest.approx(24 * 3600)
    with app.extensions["omni"].records.read() as connection:
        row = connection.execute(select(batches)).mappings().one()
    assert (row["dialect"], row["endpoint"], row["status"]) == ("anthropic", "/v1/messages", "validating")
    assert (row["num_total"], row["model"], row["output_ttl"]) == (3, "tiny", KEPT_S)
    [name] = names(tmp_path)
    assert name == row["input_file_id"]
    lines = [json.loads(line) for line in (tmp_path / "files" / name).read_bytes().splitlines()]
    assert [line["custom_id"] for line in lines] == ["r0", "r1", "r2"]
    assert lines[0]["url"] == "/v1/messages" and lines[0]["body"] == requests_of(1)["requests"][0]["params"]


def test_the_requests_file_is_no_file_of_v1_files(web, tmp_path):
    web.post(PATH, json=requests_of(1))
    [name] = names(tmp_path)
    assert web.get("/v1/files").json()["data"] == []
    for method, path in (("GET", name), ("GET", f"{name}/content"), ("DELETE", name)):
        assert web.request(method, f"/v1/files/{path}").status_code == 404
    body = {"input_file_id": name, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert web.post("/v1/batches", json=body).status_code == 400
    assert web.get("/v1/batches").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "status", "kind", "what"),
    [
        (b'{"requests":[]}', 400, "invalid_request_error", "at least one"),
        (b'{"requests":[{"custom_id":"a b","params":{}}]}', 400, "invalid_request_error", "requests[0].custom_id"),
        (b"{", 400, "invalid_request_error", "ends too early"),
        (
            b'{"requests":[{"custom_id":"a","params":{"x":"%b"}}]}' % (b"x" * 9_000_000),
            413,
            "request_too_large",
            "value",
        ),
    ],
    ids=range(4),
)
def test_a_refusal_has_anthropics_form_and_leaves_nothing(web, tmp_path, body, status, kind, what):
    answer = web.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    error = answer.json()
    assert error["type"] == "error" and error["error"]["type"] == kind and what in error["error"]["message"]
    assert error["request_id"] and names(tmp_path) == []


def test_a_body_of_another_type_or_without_a_key_is_refused(app, web):
    assert web.post(PATH, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    refused = http_client(app, "sk-wrong").post(PATH, json=requests_of(1))
    assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"


def test_counts_and_results_when_it_has_ended(app, web):
    batch_id = web.post(PATH, json=requests_of(4)).json()["id"]
    assert web.get(f"{PATH}/{batch_id}/results").status_code == 404
    lines = b"".join(b'{"custom_id":"r%d","result":{"type":"succeeded"}}\n' % at for at in range(4))
    end(
        app, batch_id, lines, status="completed", completed=1_800_000_000.5, num_succeeded=1, num_errored=1,
        num_expired=1, num_cancelled=1,
    )  # fmt: skip
    found = web.get(f"{PATH}/{batch_id}").json()
    assert found["processing_status"] == "ended" and found["ended_at"] == "2027-01-15T08:00:00.500000Z"
    assert found["request_counts"] == {"processing": 0, "succeeded": 1, "errored": 1, "canceled": 1, "expired": 1}
    assert found["results_url"] == f"http://localhost{PATH}/{batch_id}/results"
    answer = web.get(found["results_url"], headers={"Accept": "application/binary"})
    assert answer.content == lines and answer.headers["Content-Type"].startswith("application/x-jsonl")
    assert http_client(app, "sk-other").get(f"{PATH}/{batch_id}/results").status_code == 404


def test_results_are_archived_after_twenty_nine_days(app, web, monkeypatch):
    batch_id = web.post(PATH, json=requests_of(1)).json()["id"]
    end(app, batch_id, b"{}\n", status="completed", completed=5.0)
    later = time.time() + KEPT_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    found = web.get(f"{PATH}/{batch_id}").json()
    assert found["results_url"] is None and found["archived_at"] is not None


def test_it_is_canceled_while_it_runs_and_not_after_its_end(app, web):
    batch_id = web.post(PATH, json=requests_of(2)).json()["id"]
    found = web.post(f"{PATH}/{batch_id}/cancel").json()
    assert found["processing_status"] == "canceling" and found["cancel_initiated_at"].endswith("Z")
    assert web.post(f"{PATH}/{batch_id}/cancel").json() == found
    change(app, batch_id, status="cancelled", cancelled=5.0, num_cancelled=2)
    assert web.get(f"{PATH}/{batch_id}").json()["processing_status"] == "ended"
    other = web.post(PATH, json=requests_of(1)).json()["id"]
    change(app, other, status="completed", completed=5.0)
    refused = web.post(f"{PATH}/{other}/cancel")
    assert refused.status_code == 400 and "has ended" in refused.json()["error"]["message"]


def test_it_is_deleted_with_its_files_once_it_has_ended(app, web, tmp_path):
    batch_id = web.post(PATH, json=requests_of(2)).json()["id"]
    refused = web.delete(f"{PATH}/{batch_id}")
    assert refused.status_code == 400 and "has not ended" in refused.json()["error"]["message"]
    end(app, batch_id, b"{}\n", status="completed", completed=5.0)
    assert len(names(tmp_path)) == 2
    assert http_client(app, "sk-other").delete(f"{PATH}/{batch_id}").status_code == 404
    assert web.delete(f"{PATH}/{batch_id}").json() == {"id": batch_id, "type": "message_batch_deleted"}
    assert names(tmp_path) == [] and web.get(f"{PATH}/{batch_id}").status_code == 404
    with app.extensions["omni"].records.read() as connection:
        assert connection.execute(select(files)).first() is None


def test_batches_are_listed_in_pages_in_both_directions(app, web):
    made = [web.post(PATH, json=requests_of(1)).json()["id"] for _ in range(5)][::-1]

    def page(**query):
        body = web.get(PATH, params=query).json()
        ids = [item["id"] for item in body["data"]]
        assert (body["first_id"], body["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return ids, body["has_more"]

    assert page() == (made, False)
    assert page(limit=2) == (made[:2], True)
    assert page(limit=2, after_id=made[1]) == (made[2:4], True)
    assert page(limit=2, after_id=made[3]) == (made[4:], False)
    assert page(limit=2, before_id=made[4]) == (made[2:4], True)
    assert page(limit=2, before_id=made[2]) == (made[:2], False)
    assert http_client(app, "sk-other").get(PATH).json()["data"] == []
    for query in ("limit=1001", "after_id=msgbatch_no", "before_id=msgbatch_no", f"after_id={made[0]}&before_id=x"):
        assert web.get(f"{PATH}?{query}").status_code == 400


def test_an_idempotency_key_makes_one_batch_and_keeps_one_file(web, tmp_path):
    key = {"Idempotency-Key": "k"}
    first = web.post(PATH, json=requests_of(2), headers=key).json()
    assert web.post(PATH, json=requests_of(2), headers=key).json() == first
    assert web.post(PATH, json=requests_of(3), headers=key).status_code == 422
    assert len(names(tmp_path)) == 1


def test_a_batch_of_the_other_dialect_is_not_there(app, web):
    batch_id = web.post(PATH, json=requests_of(1)).json()["id"]
    assert web.get(f"/v1/batches/{batch_id}").status_code == 404
    assert web.post(f"/v1/batches/{batch_id}/cancel").status_code == 404
