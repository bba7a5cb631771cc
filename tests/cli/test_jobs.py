"""omni jobs and omni cancel."""

import json
import signal
import subprocess
import sys
import time

import click

from cli.client import Client
from cli.jobs import board_rows, changes, listed, open_first
from cli.terminal import moment
from tests.service import ROOT, RunningService


def test_jobs_are_listed_and_cancelled(omni, service: RunningService, monkeypatch):
    with service.http() as http:
        body = {"model": "omni-demo", "messages": [{"role": "user", "content": "A story!"}], "background": True}
        job_id = http.post("/v1/chat/completions", json=body | {"max_tokens": 3000, "ignore_eos": True}).json()["id"]
        tomorrow = time.time() + 24 * 3600
        later = body | {"not_before": int(tomorrow), "service_tier": "flex"}
        later_id = http.post("/v1/chat/completions", json=later).json()["id"]
    for table in (omni("jobs").stdout, omni("jobs", "--all").stdout):
        [line] = [line for line in table.splitlines() if later_id in line]
        assert "scheduled" in line and "flex" in line and moment(int(tomorrow)) in line
    newest = omni("jobs", "--limit", "1")
    assert later_id in newest.stdout and job_id not in newest.stdout and "more than the newest 1" in newest.stderr
    monkeypatch.setattr("cli.client.PAGE", 1)
    both = omni("jobs", "--limit", "2").stdout  # in two requests
    assert later_id in both and job_id in both
    refused = omni("jobs", "--all", "--limit", "2")
    assert refused.exit_code == 2 and "--limit is for the list of one key" in refused.stderr
    assert "cancelled" in omni("cancel", later_id).stdout
    assert job_id in omni("jobs").stdout
    assert job_id in omni("jobs", "--all").stdout
    assert f"{job_id} cancelled" in omni("cancel", job_id).stdout
    unknown = omni("cancel", "chatcmpl-unknown")
    assert unknown.exit_code == 1 and "no job" in unknown.stderr


def test_a_wrong_key_is_refused_in_one_sentence(omni):
    refused = omni("jobs", key="wrong")
    assert refused.exit_code == 1 and "401" in refused.stderr and "Traceback" not in refused.stderr


def test_jobs_are_watched_in_json_lines_until_ctrl_c(service: RunningService):
    """The lines change as the jobs do."""
    ask = {"model": "omni-demo", "messages": [{"role": "user", "content": "A story!"}], "background": True}
    words = [sys.executable, "-m", "omni", "--url", f"{service.url}/v1/", "--key", service.key, "jobs", "--watch"]
    with subprocess.Popen([*words, "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        known = {job["id"] for job in json.loads(watching.stdout.readline())}
        with service.http() as http:
            job_id = http.post("/v1/chat/completions", json=ask | {"max_tokens": 2}).json()["id"]
        seen = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
    assert job_id not in known and job_id in {job["id"] for job in seen}
    assert watching.returncode == 130


def test_a_service_that_is_away_is_waited_for(monkeypatch, capsys):
    answers = iter([click.ClickException("away"), click.ClickException("away"), ([], False)])

    def listed(*_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("cli.jobs.listed", listed)
    monkeypatch.setattr("cli.jobs.POLL_S", 0)
    assert next(changes(Client("http://x", ""), everyone=False, limit=1)) == []
    assert capsys.readouterr().err == "away\n"


def test_jobs_of_all_keys_end_with_the_latest_that_failed():
    job = {"tier": "default", "tokens": 3, "max_tokens": 9, "owner": "alice", "age_s": 2.0}
    running = [job | {"id": "a"}]
    failed = [job | {"id": name, "code": "timeout", "ended": at} for name, at in (("c", 1e9 + 9), ("b", 1e9))]
    found = board_rows({"running": running, "waiting": [], "scheduled": [], "failed": failed})
    assert [row[0] for row in found] == ["a", "b", "c"]
    until = f"until {moment(1e9 + 9)}"
    assert found[2] == ("c", "failed: timeout", "default", None, until, "3/9", None, "alice")


def test_the_first_of_many_that_wait_are_told_from_all(monkeypatch):
    board = {"running": [], "waiting": [], "scheduled": [], "failed": [], "num_waiting": 0, "num_scheduled": 0}
    boards = iter([board, board | {"num_waiting": 1}, board | {"num_scheduled": 1}])
    monkeypatch.setattr("cli.client.Client.events", lambda *_: iter([next(boards)]))
    assert [listed(Client("http://x", ""), True, 100)[1] for _ in range(3)] == [False, True, True]


def test_a_watch_shows_open_jobs_first_and_then_the_latest():
    rows = [("a", "finished"), ("b", "cancelled"), ("c", "running"), ("d", "queued (model cold)"), ("e", "failed")]
    assert [row[0] for row in open_first(rows)] == ["c", "d", "e", "b", "a"]
