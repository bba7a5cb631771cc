"""The operator's board: its snapshot, shared by all viewers, and the pages that need no key."""

import json
import time

import httpx2
import pytest
from flask import Request

from api.jobs.generation import rq_job
from api.jobs.service import build_service
from api.operator.board import Board
from api.operator.snapshot import take_snapshot
from common.errors import OmniError
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
    snapshot = take_snapshot(store, QUEUE)
    assert [job["id"] for job in snapshot["running"]] == ["job-0"]
    assert [(job["id"], job["position"]) for job in snapshot["waiting"]] == [("job-1", 1), ("job-2", 2)]
    assert [(job["id"], job["code"]) for job in snapshot["failed"]] == [("job-3", "timeout")]
    assert snapshot["num_waiting"] == 2
    assert snapshot["waiting"][0] | {"age_s": 0} == {
        "id": "job-1", "position": 1, "age_s": 0, "owner": "o" * 32, "prompt_tokens": 3,
    }  # fmt: skip
    [worker] = snapshot["workers"]
    assert (worker["state"], worker["batch"], worker["kv_used"], worker["kv_total"]) == ("ready", 1, 3, 9)
    assert worker["preempted"] == 2


def test_a_loading_worker_reports_its_progress(store, redis):
    Ledger(redis, QUEUE, "w1").report_loading("weights", 0.4)
    [worker] = take_snapshot(store, QUEUE)["workers"]
    assert (worker["state"], worker["progress"]) == ("loading", {"what": "weights", "share": "0.4"})


def test_all_viewers_of_a_process_share_one_snapshot(valkey_url, redis):
    service = build_service(read_settings({"REDIS_URL": valkey_url}))
    board = Board(service)
    first = board.frame()
    num_commands = redis.info("stats")["total_commands_processed"]
    assert all(board.frame() == first for _ in range(100))
    assert redis.info("stats")["total_commands_processed"] - num_commands < 5


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
