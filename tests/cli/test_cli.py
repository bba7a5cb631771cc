"""The command line against the running service."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import doctor
from cli.main import main
from cli.serve import ROOT
from cli.terminal import AnswerView, show_table
from common.process.data_folder import take
from common.settings import read_settings
from tests.service import RunningService


@pytest.fixture
def omni(service: RunningService):
    """Runs a command as an operator of the test's instance."""
    settings = read_settings(
        {
            "OMNI_PORT": str(service.port),
            "OMNI_DATA_DIR": str(service.folder),
            "REDIS_URL": service.env.get("REDIS_URL", ""),
        }
    )

    def run(*arguments, key=service.key, **options):
        given = {"url": service.url, "key": key, "settings": lambda: settings}
        runner = CliRunner()
        command, *rest = arguments
        return runner.invoke(main.commands[command], rest, obj=given, **options)

    return run


def test_chat_answers_in_the_terminal(omni):
    answered = omni("chat", "Hello!", "--max-tokens", "8", "--temperature", "0")
    assert answered.exit_code == 0 and answered.stdout.strip()
    assert re.search(r"\d+ tokens, \d+/s", answered.stderr)


def test_a_talk_goes_on_until_its_input_ends(omni):
    talked = omni("chat", "--max-tokens", "4", input="Hello!\nAnd now?\n")
    assert talked.exit_code == 0 and talked.stderr.count("tokens,") == 2


def test_a_key_is_made_listed_used_limited_and_revoked(omni, service: RunningService):
    key = omni("keys", "add", "visitor", "--max-queued", "5").stdout.strip()
    try:
        listed = omni("keys", "list").stdout
        assert "visitor" in listed and key not in listed
        assert omni("keys", "limits", "visitor", "--weight", "2.5", "--admin").exit_code == 0
        assert re.search(r"visitor\s+\S+\s+-\s+5\s+-\s+-\s+2\.5\s+0\s+yes", omni("keys", "list").stdout)
        assert "visitor" in omni("keys", "add", "visitor").stderr
    finally:
        assert omni("keys", "revoke", "visitor").exit_code == 0
    assert "no key named" in omni("keys", "revoke", "visitor").stderr


def test_jobs_are_listed_and_cancelled(omni, service: RunningService):
    with service.http() as http:
        body = {"model": "omni-demo", "messages": [{"role": "user", "content": "A story!"}], "background": True}
        job_id = http.post("/v1/chat/completions", json=body | {"max_tokens": 3000, "ignore_eos": True}).json()["id"]
    assert job_id in omni("jobs").stdout
    assert job_id in omni("jobs", "--all").stdout
    assert f"{job_id} cancelled" in omni("cancel", job_id).stdout
    unknown = omni("cancel", "chatcmpl-unknown")
    assert unknown.exit_code == 1 and "no job" in unknown.stderr


def test_a_wrong_key_and_a_service_that_is_away_are_said_in_one_sentence(omni):
    refused = omni("jobs", key="wrong")
    assert refused.exit_code == 1 and "401" in refused.stderr and "Traceback" not in refused.stderr


def test_doctor_finds_nothing_bad_here(omni, monkeypatch):
    monkeypatch.setattr(doctor, "package_finding", lambda: doctor.Finding("good", "packages"))
    checked = omni("doctor")
    assert checked.exit_code == 0, checked.output
    assert "Redis" in checked.stdout and "the service is running there" in checked.stdout


@pytest.mark.parametrize(
    ("check", "changes", "todo"),
    [
        (doctor.model_finding, {"OMNI_MODEL": "./nowhere"}, "OMNI_MODEL"),
        (doctor.key_finding, {"OMNI_HOST": "0.0.0.0"}, "OMNI_API_KEYS"),
        (doctor.redis_finding, {"REDIS_URL": "unix:///nowhere/at/all.sock"}, "REDIS_URL"),
        (doctor.redis_door_finding, {"REDIS_URL": "redis://10.0.0.5:6379"}, "REDIS_URL"),
    ],
)
def test_doctor_says_what_to_do(check, changes, todo):
    finding = check(read_settings(changes))
    assert finding.level == "bad" and todo in finding.todo


def test_doctor_sees_a_port_that_others_took(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = doctor.port_finding(read_settings({"OMNI_PORT": str(taken.getsockname()[1])}))
    assert finding.level == "bad" and "OMNI_PORT" in finding.todo
    assert replace(finding, level="warn").level == "warn"


def test_doctor_sees_an_owner_of_the_folder_whose_valkey_is_gone(tmp_path):
    fd = take(tmp_path)
    finding = doctor.folder_finding(read_settings({"OMNI_DATA_DIR": str(tmp_path), "REDIS_URL": ""}))
    os.close(fd)
    assert finding.level == "bad" and f"process {os.getpid()}" in finding.todo


@pytest.mark.parametrize("command", [["./omni"], [sys.executable, "-m", "omni"]])
def test_both_ways_to_call_it_work(command):
    if command == ["./omni"] and not (ROOT / ".venv/bin/python").exists():
        pytest.skip("there is no .venv here")
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for name in ("serve", "chat", "jobs", "cancel", "keys", "bench", "doctor"):
        assert name in shown.stdout


def test_a_bad_setting_is_one_sentence():
    shown = subprocess.run(
        [sys.executable, "-m", "omni", "jobs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"OMNI_PORT": "zero", "PATH": ""},
    )
    assert shown.returncode == 1 and "OMNI_PORT" in shown.stderr and "Traceback" not in shown.stderr


def test_a_table_in_a_pipe_is_aligned_and_not_cut(capsys):
    show_table(("a", "long"), [("x" * 90, None), (1, "[y]")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"{'a':90}  long", "x" * 90, f"{'1':90}  [y]"]


def test_an_answer_in_a_pipe_is_its_text(capsys):
    with AnswerView() as view:
        for piece in ("**bold**", " [red] ", "text"):
            view.add(piece)
    assert capsys.readouterr().out == "**bold** [red] text\n" and view.text == "**bold** [red] text"


def test_an_answer_on_a_terminal_is_rendered_markdown():
    screen, terminal = os.openpty()
    code = "from cli.terminal import AnswerView\nwith AnswerView() as view:\n    view.add('**bold** text')"
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=terminal, env=os.environ | {"TERM": "xterm"}, check=True
    )
    os.close(terminal)
    shown = os.read(screen, 65536).decode()
    os.close(screen)
    assert "\x1b[1mbold\x1b[0m text" in shown


def test_no_command_file_is_large():
    assert all(len(path.read_text().splitlines()) <= 300 for path in Path(ROOT / "cli").glob("*.py"))
