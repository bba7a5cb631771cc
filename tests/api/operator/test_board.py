"""The operator's board: its snapshot, shared by all viewers, and the pages that need no key."""

import json
import time
from dataclasses import replace
from threading import Event

import gevent
import gevent.event
import httpx2
import pytest
from flask import Request
from sqlalchemy.exc import OperationalError

from api.jobs.generation import rq_job
from api.jobs.service import build_service
from api.operator.board import Board
from api.operator.metrics import stored_counts
from api.operator.snapshot import take_snapshot
from api.operator.stored_work import StoredCounts, StoredWork
from common.errors import OmniError
from common.records.batches import add_batch
from common.records.migrate import SchemaTooNew
from common.records.webhooks import BY_OWNER, add_endpoint
from common.redis import keys
from common.redis.served.shelf import ShelfEntry, ShelfReport, ShelfStore
from common.redis.store import Store
from common.redis.submission import Submission
from common.settings import read_settings
from common.wire import GenerationRequest, SamplingParams
from tests.service import RunningService
from worker.jobs.ledger import Ledger

QUEUE = "board-model"


@pytest.fixture
def store(redis):
    return Store(redis)


def put(store, job_id, owner="o" * 32, **changes):
    request = GenerationRequest(job_id, QUEUE, (1, 2, 3), SamplingParams(max_tokens=9, seed=1))
    submission = Submission(request, QUEUE, owner, "r", {"kind": "chat", "model": QUEUE}, **changes)
    return store.submit(submission, rq_job(store.redis, job_id, QUEUE)).job_id


def test_a_snapshot_shows_waiting_running_and_failed_jobs(store, redis):
    ledger = Ledger(redis, QUEUE, "w1")
    ledger.register()
    ledger.renew(
        {
            "state": "ready",
            "num_running": 1,
            "kv_blocks_used": 3,
            "kv_blocks_total": 9,
            "num_preempted": 2,
            "started": time.time(),
        }
    )
    for number in range(4):
        put(store, f"job-{number}")
    assert ledger.claim(0).request.id == "job-0"
    store.cancel("job-3", code="timeout", message="late")
    snapshot = take_snapshot(store, [QUEUE])
    assert [job["id"] for job in snapshot["running"]] == ["job-0"]
    assert [(job["id"], job["position"]) for job in snapshot["waiting"]] == [("job-1", 1), ("job-2", 2)]
    assert [(job["id"], job["code"], job["owner"]) for job in snapshot["failed"]] == [("job-3", "timeout", "o" * 32)]
    assert snapshot["num_waiting"] == 2
    assert snapshot["waiting"][0]["eta_s"] is None, "nothing has been measured"
    assert snapshot["waiting"][0] | {"age_s": 0, "eta_s": 0} == {
        "id": "job-1", "position": 1, "age_s": 0, "eta_s": 0, "owner": "o" * 32, "prompt_tokens": 3,
        "tier": "default",
    }  # fmt: skip
    [worker] = snapshot["workers"]
    assert (worker["state"], worker["batch"], worker["kv_used"], worker["kv_total"]) == ("ready", 1, 3, 9)
    assert worker["preempted"] == 2


def test_a_loading_worker_reports_its_progress(store, redis):
    Ledger(redis, QUEUE, "w1").report_loading("weights", 0.4)
    [worker] = take_snapshot(store, [QUEUE])["workers"]
    assert (worker["state"], worker["progress"]) == ("loading", {"what": "weights", "share": "0.4"})


def test_a_shelf_shows_how_many_wait_for_each_model_and_for_how_long(store, redis):
    put(store, "now")
    put(store, "another")
    redis.hset(keys.job_key("now"), "created", int((time.time() - 60) * 1000))
    entries = (ShelfEntry(QUEUE, "cold"), ShelfEntry("of no queue yet", "failed", fault="no such file"))
    ShelfStore(redis).publish(ShelfReport("w1", time.time(), "cpu", 9, 5, 0, 0, 0, entries, why="because"))
    [shelf] = take_snapshot(store, [QUEUE])["shelves"]
    assert (shelf["why"], shelf["capacity_bytes"], shelf["used_bytes"]) == ("because", 9, 5)
    waited, unknown = shelf["entries"]
    assert (waited["queue"], waited["status"], waited["num_waiting"]) == (QUEUE, "cold", 2)
    assert 60 <= waited["longest_wait_s"] < 90
    assert (unknown["num_waiting"], unknown["longest_wait_s"], unknown["fault"]) == (0, 0.0, "no such file")


def test_all_viewers_of_a_process_share_one_snapshot(valkey_url, redis):
    service = build_service(read_settings({"REDIS_URL": valkey_url}))
    board = Board(service)
    first = board.frame()
    num_commands = redis.info("stats")["total_commands_processed"]
    assert all(board.frame() == first for _ in range(100))
    assert redis.info("stats")["total_commands_processed"] - num_commands < 5


def test_jobs_for_later_and_the_numbers_of_each_tier_are_shown(store):
    at_ms = int(time.time() * 1000) + 3_600_000
    put(store, "now")
    put(store, "spare", tier="flex")
    put(store, "later", not_before_ms=at_ms + 5)
    put(store, "sooner", not_before_ms=at_ms)
    snapshot = take_snapshot(store, [QUEUE])
    assert [(job["id"], job["not_before"]) for job in snapshot["scheduled"]] == [
        ("sooner", at_ms / 1000),
        ("later", (at_ms + 5) / 1000),
    ]
    assert snapshot["num_scheduled"] == 2
    waiting = {tier: numbers["waiting"] for tier, numbers in snapshot["tiers"].items()}
    assert waiting == {"priority": 0, "default": 1, "flex": 1}


@pytest.fixture
def service_of_a_store(valkey_url, redis, records):
    """A service object, without a process, whose store is empty."""
    return replace(build_service(read_settings({"REDIS_URL": valkey_url})), records=records)


def add_rows(service, *rows):
    common = {"owner": "o" * 32, "dialect": "openai", "endpoint": "/v1/embeddings", "input_file_id": "file-1"}
    with service.records.begin() as connection:
        for row in rows:
            add_batch(connection, common | {"completion_window": "24h", "expires": 9e9} | row)


def test_open_batches_come_first_and_ended_ones_are_shown_for_a_day(service_of_a_store):
    now = time.time()
    service = service_of_a_store
    add_rows(
        service,
        {"id": "old", "status": "completed", "created": now - 100_000},
        {"id": "ended", "status": "completed", "created": now, "num_total": 2, "num_succeeded": 1, "num_errored": 1},
        {"id": "waits", "status": "validating", "created": now - 5},
        {"id": "runs", "status": "in_progress", "created": now - 200_000, "num_total": 9, "num_succeeded": 3,
         "lines_per_s": 1.5, "eta": now + 4},
    )  # fmt: skip
    found = StoredWork(service).newest()
    shown = [(batch["id"], batch["done"], batch["total"], batch["lines_per_s"]) for batch in found["batches"]]
    assert shown == [("runs", 3, 9, 1.5), ("waits", 0, 0, None), ("ended", 2, 2, None)]
    assert (found["num_open_batches"], found["is_store_away"]) == (2, False)
    assert found["batches"][0]["eta"] == now + 4 and found["batches"][2]["failed"] == 1


def test_webhooks_that_fail_or_were_disabled_for_it_are_shown(service_of_a_store):
    made = {"owner": "o" * 32, "scope": "own", "url": "https://a.example/", "event_types": ["*"], "secret": "s"}
    with service_of_a_store.records.begin() as connection:
        for name, changes in {
            "well": {},
            "off": {"disabled": 2.0, "disabled_why": "72 hours without a success."},
            "failing": {"failing_since": 1.0},
            "put aside": {"disabled": 2.0, "disabled_why": BY_OWNER},
        }.items():
            add_endpoint(connection, made | {"name": name} | changes)
    found = StoredWork(service_of_a_store).newest()["webhooks"]
    assert [endpoint["name"] for endpoint in found] == ["failing", "off"]


def test_a_store_that_is_away_holds_up_no_frame_and_is_read_again_when_it_is_back(service_of_a_store, monkeypatch):
    service = service_of_a_store
    add_rows(service, {"id": "runs", "status": "in_progress", "created": time.time()})
    board = Board(service)
    assert b"runs" in board.frame()
    monkeypatch.setattr(board._stored, "_period_s", 0.0)
    monkeypatch.setattr("api.operator.board.PERIOD_S", 0.0)
    monkeypatch.setattr("api.operator.stored_work.PATIENCE_S", 0.05)
    hangs = Event()
    hung = monkeypatch.context()
    with hung as patched:
        patched.setattr("api.operator.stored_work.board_batches", lambda *_: (hangs.wait(20), ([], 0))[1])
        began = time.monotonic()
        frames = [board.frame() for _ in range(3)]
        assert time.monotonic() - began < 10, "half as long as the store hangs"
    hangs.set()
    assert all(b"runs" in frame and b'"is_store_away":true' in frame for frame in frames)
    gevent.sleep(0.1)
    with monkeypatch.context() as patched:
        patched.setattr("api.operator.stored_work.board_batches", fail)
        board.frame()
        assert b'"is_store_away":true' in board.frame()
    while b'"is_store_away":true' in board.frame():  # a look that takes longer than its patience is away, too
        gevent.sleep(0.01)


def fail(*_):
    raise OperationalError("SELECT", {}, Exception("away"))


def test_a_store_of_a_later_version_leaves_the_board_its_queue(service_of_a_store, monkeypatch):
    def refuse(*_):
        raise SchemaTooNew("The store was made by a later version of this server.")

    monkeypatch.setattr("api.operator.stored_work.board_batches", refuse)
    monkeypatch.setattr("api.operator.stored_work.PATIENCE_S", 20)
    frame = Board(service_of_a_store).frame()
    assert b'"is_store_away":true' in frame and b'"waiting":[]' in frame


def test_metrics_count_batches_lines_and_deliveries_and_are_silent_while_the_store_is_away(
    service_of_a_store, monkeypatch
):
    add_rows(
        service_of_a_store,
        {"id": "ended", "status": "expired", "created": 1, "num_total": 9, "num_succeeded": 6, "num_expired": 3},
        {"id": "runs", "status": "in_progress", "created": 2, "num_total": 9, "num_succeeded": 3, "num_errored": 1},
    )
    counts = StoredCounts(service_of_a_store)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in stored_counts(counts.newest())
        for sample in family.samples
    }
    assert {name: number for name, number in found.items() if number} == {
        ("omni:batches", "expired"): 1,
        ("omni:batches", "in_progress"): 1,
        ("omni:batch_lines", "succeeded"): 9,
        ("omni:batch_lines", "errored"): 1,
        ("omni:batch_lines", "expired"): 3,
        ("omni:batch_lines", "waiting"): 5,
    }
    assert found["omni:webhook_deliveries", "pending"] == 0
    monkeypatch.setattr(counts, "_period_s", 0.0)
    monkeypatch.setattr("api.operator.stored_work.batch_counts", fail)
    assert list(stored_counts(counts.newest())) == []


def test_viewers_cost_one_read_of_the_store_in_two_seconds(service_of_a_store, monkeypatch):
    reads = []
    monkeypatch.setattr("api.operator.stored_work.board_batches", lambda *_: (reads.append(1), ([], 0))[1])
    work = StoredWork(service_of_a_store)
    for _ in range(100):
        work.newest()
    assert len(reads) == 1


def test_two_may_wait_for_one_read(service_of_a_store, monkeypatch):
    goes_on = gevent.event.Event()
    monkeypatch.setattr("api.operator.stored_work.PATIENCE_S", 20.0)
    work = StoredWork(service_of_a_store)
    monkeypatch.setattr(work, "_refresh", goes_on.wait)
    viewers = [gevent.spawn(work.newest) for _ in range(2)]
    gevent.idle()
    goes_on.set()
    gevent.joinall(viewers, raise_error=True)
    assert viewers[0].value == viewers[1].value


def test_the_board_streams_to_admins_only(service: RunningService):
    with service.http() as http:
        with http.stream("GET", "/admin/board") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = (line for line in response.iter_lines() if line.startswith("data: "))
            events = [json.loads(next(lines)[6:]) for _ in range(2)]
        assert http.get("/admin/board", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert 0.9 < events[1]["time"] - events[0]["time"] < 3
    worker = events[1]["workers"][0]
    assert worker["state"] == "ready" and worker["kv_total"] > 0 and worker["device"] == "cpu"


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "text/html"), ("/board", "text/html"), ("/static/style.css", "text/css")]
)
def test_the_pages_need_no_key_and_carry_the_policy(service: RunningService, path, kind):
    answer = httpx2.get(service.url + path)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_static_files_end_at_their_folder(service: RunningService):
    with service.http() as http:
        for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/..%2fapp.py"):
            assert http.get(path).status_code in (308, 404), path


def test_an_ordinary_key_is_not_an_operators_off_loopback(valkey_url, redis):
    keys = {"OMNI_API_KEYS": "a", "OMNI_ADMIN_KEYS": "b"}
    settings = read_settings({"REDIS_URL": valkey_url, "OMNI_HOST": "0.0.0.0"} | keys)
    service = build_service(settings)

    def request(key):
        return Request({"HTTP_AUTHORIZATION": f"Bearer {key}"})

    assert service.keys.admin(request("b")).is_admin
    with pytest.raises(OmniError) as refused:
        service.keys.admin(request("a"))
    assert refused.value.code == "forbidden"
