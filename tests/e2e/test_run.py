"""`make run` on a terminal: one start, restarts of dead processes, one stop that leaves none."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.service import ROOT, RunningService, is_template


class Run:
    """The whole Procfile in its own process group, as on a terminal."""

    def __init__(self, folder: Path) -> None:
        self.service = RunningService(folder)
        self.log_path = folder / "run.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "common.process.start"],
                cwd=ROOT,
                env=self.service.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.service.wait_healthy()
        except TimeoutError:
            self.process.terminate()
            raise TimeoutError(self.log_path.read_text()) from None

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, *words: str) -> psutil.Process:
        """The process with all these words in its command line, except supervisors and templates."""
        for child in self.children():
            line = " ".join(child.cmdline())
            if (
                all(word in line for word in words)
                and "common.process.supervise" not in line
                and not is_template(child)
            ):
                return child
        raise LookupError(words)

    def is_answering(self) -> bool:
        body = {"model": "omni-demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
        headers = {"Authorization": "Bearer sk-local"}
        answer = httpx2.post(f"{self.service.url}/v1/chat/completions", json=body, headers=headers, timeout=40)
        return answer.status_code == 200

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Run(tmp_path_factory.mktemp("run")) as running:
        yield running


def test_one_log_line_has_a_curl_command_that_works(run: Run) -> None:
    lines = [line for line in run.log_path.read_text().splitlines() if "Protocol OMNI serves" in line]
    assert len(lines) == 1
    command = json.loads(lines[0])["message"].partition("Try: ")[2]
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert '"object":"chat.completion"' in answer.stdout
    assert not re.search(r"Traceback|Loading weights|%\|", run.log_path.read_text())


def test_the_end_of_the_start_is_told_once_with_the_addresses(run: Run) -> None:
    lines = [json.loads(line) for line in run.log_path.read_text().splitlines() if "is ready" in line]
    [told] = [line for line in lines if line["logger"] == "omni.start"]
    assert told["page"] == f"{run.service.url}/" and "omni-demo" in told["model"] and "sk-" not in str(told)


def test_the_log_is_kept_for_omni_logs(run: Run) -> None:
    words = [sys.executable, "-m", "omni", "logs", "worker", "--level", "info", "--json"]
    shown = subprocess.run(words, cwd=ROOT, env=run.service.env, capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {line["process"] for line in lines} == {"worker.1"}
    assert any("Protocol OMNI serves" in line["message"] for line in lines)


@pytest.mark.parametrize("words", [("valkey-server",), ("worker.main",), ("api.server",)])
def test_a_killed_process_is_restarted_and_the_others_stay(run: Run, words: tuple[str, ...]) -> None:
    victim = run.find(*words)
    others = {child.pid for child in run.children()} - {victim.pid, *(c.pid for c in victim.children(recursive=True))}
    victim.kill()
    victim.wait(5)
    deadline = time.monotonic() + 60  # a busy machine is slow, not wrong
    while True:
        try:
            run.service.wait_healthy()
            if run.is_answering():
                break
        except (httpx2.HTTPError, TimeoutError):
            pass
        assert time.monotonic() < deadline
    assert others <= {child.pid for child in run.children()}


def leftovers(children: list[psutil.Process], started: float) -> list[psutil.Process]:
    """Processes that still run five seconds after `started`, without zombies."""
    _, alive = psutil.wait_procs(children, timeout=max(0.1, 5 - (time.monotonic() - started)))
    return [child for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_sigterm_ends_everything_within_five_seconds(run: Run) -> None:
    children = run.children()
    assert len(children) >= 7
    started = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    run.process.wait(10)
    assert not leftovers(children, started)


def test_ctrl_c_ends_everything_and_a_second_start_takes_less_than_fifteen_seconds(tmp_path: Path) -> None:
    """In processor time, so that other work on the machine does not count."""
    with Run(tmp_path) as run:
        children = run.children()
        assert sum(sum(child.cpu_times()[:4]) for child in children) < 15
        started = time.monotonic()
        os.killpg(run.process.pid, signal.SIGINT)  # the terminal sends it to the whole group
        run.process.wait(10)
        assert not leftovers(children, started)


def test_two_instances_run_side_by_side(tmp_path: Path, service: RunningService) -> None:
    (tmp_path / "b").mkdir()
    other = RunningService(tmp_path / "b", {"OMNI_MODEL_NAME": "other"}).start()
    try:
        assert [model["id"] for model in other.http().get("/v1/models").json()["data"]] == ["other"]
        assert [model["id"] for model in service.http().get("/v1/models").json()["data"]] == [
            "deepseek-v3.2",
            "omni-demo",
        ]
    finally:
        other.stop()
