"""omni logs."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.logs import Follower, logs
from common.process.output.log_file import LogFile, log_of
from common.settings import read_settings
from tests.service import ROOT


def line(message: str, process: str = "worker.1", level: str = "info", ago_s: float = 60.0) -> str:
    at = datetime.fromtimestamp(time.time() - ago_s, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": at, "process": process, "level": level, "message": message}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = LogFile(log_of(tmp_path), max_bytes=200)  # several files
    log.write(line("old", ago_s=7200))
    log.write(line("asked", "api.1"))
    log.write(line("it is slow", level="warning"))
    log.write(line("answered", "api.1"))
    log.write(line("it failed", level="error"))
    return tmp_path


def omni_logs(folder: Path, *words: str, piped: str = "") -> Result:
    settings = read_settings({"OMNI_DATA_DIR": str(folder)})
    return CliRunner().invoke(logs, words, obj={"settings": lambda: settings}, input=piped)


def messages(shown: Result) -> list[str]:
    assert shown.exit_code == 0, shown.output
    return [json.loads(found)["message"] for found in shown.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["old", "asked", "it is slow", "answered", "it failed"]),
        (("-n", "2"), ["answered", "it failed"]),
        (("-n", "0"), []),
        (("worker",), ["old", "it is slow", "it failed"]),
        (("api", "worker", "-n", "3"), ["it is slow", "answered", "it failed"]),
        (("--level", "warning"), ["it is slow", "it failed"]),
        (("--level", "warning", "-n", "1"), ["it failed"]),
        (("--since", "1h"), ["asked", "it is slow", "answered", "it failed"]),
        (("--since", "2020-01-01", "worker"), ["old", "it is slow", "it failed"]),
    ],
)
def test_lines_are_chosen_by_process_level_time_and_number(
    folder: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    assert messages(omni_logs(folder, *words, "--json")) == expected


def test_a_person_is_shown_time_process_level_and_message(folder: Path) -> None:
    shown = omni_logs(folder, "--level", "error").stdout
    assert shown.split()[2:] == ["worker", "error:", "it", "failed"]


def test_lines_of_other_programs_are_read_from_a_file_or_a_pipe(folder: Path) -> None:
    units = '{"logger": "omni.worker", "message": "a"}\nKilled\n{"logger": "omni.api", "message": "b"}\nreboot\n'
    assert messages(omni_logs(folder, "-", "worker", "--json", piped=units)) == ["a", "Killed"]
    (folder / "exported").write_text(units)
    assert messages(omni_logs(folder, str(folder / "exported"), "--json", "-n", "1")) == ["reboot"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("wroker",), "wroker is neither a process nor a file; did you mean worker?"),
        (("/nope",), "/nope is neither a process nor a file; processes are redis, api,"),
        (("--since", "soon"), "'soon' is no time; write 10m, 2h or 1d, or 2026-11-28T06:00."),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(folder: Path, words: tuple[str, ...], sentence: str) -> None:
    refused = omni_logs(folder, *words)
    assert refused.exit_code == 2 and sentence in refused.stderr


def test_without_a_log_it_says_where_it_may_be(tmp_path: Path) -> None:
    refused = omni_logs(tmp_path)
    assert refused.exit_code == 1 and "there is no log at" in refused.stderr and "journalctl" in refused.stderr


def test_new_lines_are_followed_from_file_to_file(tmp_path: Path) -> None:
    log = LogFile(log_of(tmp_path), max_bytes=200)
    log.write(line("before"))
    found = Follower(log_of(tmp_path)).lines()
    for number in range(5):
        log.write(line(str(number)))
    assert [next(found)["message"] for _ in range(5)] == list("01234")
    log.write(line("5"))
    assert next(found)["message"] == "5"


def test_a_reader_that_leaves_ends_it_without_a_word(folder: Path) -> None:
    words = f"{sys.executable} -m omni logs --json | head -n 1"
    environment = os.environ | {"OMNI_DATA_DIR": str(folder)}
    shown = subprocess.run(words, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert json.loads(shown.stdout)["message"] == "old" and shown.stderr == ""
