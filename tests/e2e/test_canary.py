"""A prompt and a key with a canary go through the service, its errors and a killed worker: no log holds them."""

import os
import re
import signal
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.service import RunningService

PROMPT = "canary-prompt-7f3a9c"
KEY = "sk-canary-key-51d2e8"


@pytest.fixture
def quiet(tmp_path):
    """An instance of its own with JSON logs and its own key, because the tests break it."""
    with RunningService(tmp_path, {"OMNI_API_KEYS": KEY}) as running:
        running.key = KEY
        yield running.start().start("dashboard")


def hostile_bodies():
    chat = {"model": "omni-demo", "messages": [{"role": "user", "content": PROMPT}]}
    yield chat | {"temperature": PROMPT}
    yield chat | {"model": PROMPT}
    yield chat | {"messages": [{"role": PROMPT, "content": PROMPT}]}
    yield chat | {"messages": [{"role": "user", "content": PROMPT * 10_000}]}
    yield chat | {"stop": [PROMPT], "max_tokens": 3}
    yield chat | {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": PROMPT}}}]}
    yield chat | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {PROMPT: 1}}}}
    yield chat | {"chat_template_kwargs": {PROMPT: PROMPT}}


def test_no_prompt_and_no_key_is_logged(quiet: RunningService):
    with quiet.http() as http:
        chat = {"model": "omni-demo", "messages": [{"role": "system", "content": PROMPT}], "max_tokens": 5}
        assert http.post("/v1/chat/completions", json=chat).status_code == 200
        for body in hostile_bodies():
            http.post("/v1/chat/completions", json=body)
        http.post("/v1/chat/completions", content=b'{"broken ' + PROMPT.encode())
        http.get(f"/v1/{PROMPT}", params={"q": PROMPT})
        http.get("/v1/models", headers={"Authorization": f"Bearer {KEY}x"})
        long = chat | {"background": True, "max_tokens": 2000, "ignore_eos": True}
        jobs = [http.post("/v1/chat/completions", json=long).json()["id"] for _ in range(3)]
        until(lambda: http.get(f"/v1/jobs/{jobs[0]}").json()["tokens"] > 0)
        os.kill(quiet.worker().pid, signal.SIGKILL)
        until(lambda: re.search(r"resumed_jobs_total\S* [1-9]", http.get("/metrics").text), 60)
        told = {
            "metrics": http.get("/metrics").text,
            "jobs": http.get("/v1/jobs").text,
            "board": first_event(http),
            "health": http.get("/health").text,
        }
        for job_id in jobs:
            http.delete(f"/v1/jobs/{job_id}")
    told |= {path: page(quiet, path) for path in dashboard_pages(jobs)}
    told["process titles"] = " ".join(" ".join(child.cmdline()) for child in children(quiet))
    told |= {str(path): path.read_text(errors="replace") for path in quiet.folder.glob("*.log")}
    assert jobs[0] in told[str(quiet.log_path)]
    for where, text in told.items():
        assert PROMPT not in text and KEY not in text, where


def until(probe, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not probe():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def children(service):
    parents = [psutil.Process(process.pid) for process in service.processes.values()]
    return [child for parent in parents for child in (parent, *parent.children(recursive=True))]


def first_event(http) -> str:
    with http.stream("GET", "/admin/board") as response:
        return next(line for line in response.iter_lines() if line.startswith("data: "))


def dashboard_pages(jobs):
    yield from ("0/data/queues.json", "0/data/workers.json", "0/data/jobs/deepseek-v3.2/queued/50/asc/1.json")
    yield from ("0/data/jobs/deepseek-v3.2/failed/50/asc/1.json", f"0/data/job/{jobs[0]}.json", f"0/view/job/{jobs[0]}")


def page(service, path) -> str:
    return httpx2.get(f"http://127.0.0.1:{service.dashboard_port}/{path}", timeout=10).text


def test_every_line_of_a_job_carries_its_id(service: RunningService):
    job_id = service.openai().chat.completions.create(
        model="omni-demo", messages=[{"role": "user", "content": "Hello!"}], max_tokens=3
    ).id  # fmt: skip
    until(lambda: service.log().count(job_id) >= 2)
    lines = [line for line in service.log().splitlines() if job_id in line]
    assert any("POST /v1/chat/completions 200" in line for line in lines)
    assert any("finished" in line for line in lines)
    assert Path(service.log_path).stat().st_size
