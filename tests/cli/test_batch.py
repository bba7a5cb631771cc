"""omni batch, against a service with a weightless engine."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.batch import progress_of, told
from cli.main import main
from cli.serve import ROOT
from tests.chaos.fake_worker import expected_text
from tests.chaos.harness import KEYS, Options, wait_until
from tests.dispatcher.batch_service import CHAT, BatchService, chat_line, running_batches


@pytest.fixture(scope="module")
def service() -> Iterator[BatchService]:
    with running_batches(Options(through_proxy=False, max_num_seqs=200)) as running:
        yield running


@pytest.fixture
def omni(service: BatchService) -> Any:
    given = {"url": service.harness.url, "key": KEYS[0], "settings": lambda: service.harness.settings}

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main.commands["batch"], [str(argument) for argument in arguments], obj=given)

    return run


def num_batches(omni: Any) -> int:
    return len(json.loads(omni("list", "--json").stdout))


def test_a_file_is_run_and_its_results_are_written_and_again_without_a_second_batch(omni, tmp_path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(b"".join([*(chat_line(number) for number in range(1, 21)), chat_line(21, temperature=9)]))
    first = omni("run", file, "--out", out)
    assert first.exit_code == 1 and "20 of 21 lines, 1 failed" in first.stdout, first.output
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["response"]["body"]["choices"][0]["message"]["content"] for one in results] == [
        expected_text(number, 3) for number in range(1, 21)
    ]
    [error] = [json.loads(line) for line in (tmp_path / "out.jsonl.errors").read_text().splitlines()]
    assert (error["custom_id"], error["response"]["status_code"]) == ("line-21", 400)
    before, text = num_batches(omni), out.read_text()
    assert omni("run", file, "--out", out).exit_code == 2
    again = json.loads(omni("run", file, "--out", out, "--force", "--json").stdout)
    assert (again["id"] in first.stdout, num_batches(omni), out.read_text()) == (True, before, text)


def places(folder: Path) -> list[tuple[str, str]]:
    (folder / "taken").write_text("mine")
    (folder / "free.errors").write_text("mine")
    (folder / "shut").write_text("")
    return [
        ("in.jsonl", "the file of the requests"), ("taken", "exists already"), ("free", "exists already"),
        ("/dev/null", "no regular file"), ("-", "no regular file"), ("none/out", "no folder"),
        ("shut/out", "no folder"),
    ]  # fmt: skip


def test_nothing_is_run_whose_results_would_destroy_a_file_or_could_not_be_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CALLED_FROM", str(tmp_path))
    (tmp_path / "in.jsonl").write_bytes(chat_line(1))
    for place, reason in places(tmp_path):
        refused = CliRunner().invoke(main.commands["batch"], ["run", "in.jsonl", "--out", place], obj={})
        assert refused.exit_code == 2 and reason in refused.stderr, refused.output
    assert (tmp_path / "in.jsonl").read_bytes() == chat_line(1)


def test_paths_are_relative_to_the_folder_that_omni_was_called_in(tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text("no request")
    command = [ROOT / "omni", "batch", "run", "in.jsonl", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert f"{tmp_path}/in.jsonl: the first line is no request" in done.stderr


def test_an_interrupted_command_says_that_the_batch_goes_on(omni, service, tmp_path, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.batch.waited_for", interrupted)
    (tmp_path / "in.jsonl").write_bytes(chat_line(1, tokens=5))
    stopped = omni("run", tmp_path / "in.jsonl", "--out", tmp_path / "out")
    assert stopped.exit_code == 130 and "goes on" in stopped.stderr and "omni batch cancel batch_" in stopped.stderr


def test_a_bad_file_is_told_with_its_lines(omni, tmp_path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(chat_line(1) + b"{\n")
    ended = omni("run", file, "--out", tmp_path / "out")
    assert ended.exit_code == 1 and "line 2: invalid_json_line" in ended.stdout
    file.write_bytes(b"{}\n")
    refused = omni("run", file, "--out", tmp_path / "out")
    assert refused.exit_code == 1 and "'url'" in refused.stderr


def test_batches_are_listed_shown_and_cancelled(omni, service) -> None:
    batch_id = service.add([chat_line(number, tokens=90_000) for number in range(1, 10)])
    wait_until(lambda: service.row(batch_id).status == "in_progress")
    assert batch_id in omni("list").stdout
    assert json.loads(omni("show", batch_id, "--json").stdout)["request_counts"]["total"] == 9
    assert f"{batch_id} cancelling" in omni("cancel", batch_id).stdout
    service.ended(batch_id)
    assert f"{batch_id} cancelled: 0 of 9" in omni("show", batch_id).stdout
    unknown = omni("show", "batch_none")
    assert unknown.exit_code == 1 and "404" in unknown.stderr


def test_ended_batches_are_deleted_and_others_refused(omni, service) -> None:
    batch_id = service.add([chat_line(number, tokens=90_000) for number in range(1, 3)])
    refused = omni("delete", batch_id)
    assert refused.exit_code == 1 and "cancel it first" in refused.stderr
    service.cancel(batch_id)
    service.ended(batch_id)
    assert json.loads(omni("delete", batch_id, "--json").stdout)["deleted"]
    assert batch_id not in omni("list").stdout


def test_why_a_batch_waits_is_shown_and_while_it_is_waited_for_once(omni, monkeypatch, capsys) -> None:
    """[brackets] in a reason are no markup."""
    found = {"id": "batch_1", "status": "in_progress", "endpoint": CHAT, "created_at": 0, "waiting_for": "[red] Full."}
    found["request_counts"] = {"total": 2, "completed": 0, "failed": 0}
    assert told(found).splitlines()[1:] == ["waits: [red] Full."]
    with progress_of("batch_1") as shown:
        shown(found)
        shown(found)
        shown(found | {"waiting_for": "No dispatcher."})
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines == ["batch_1 waits: [red] Full.", "batch_1 waits: No dispatcher."]
    monkeypatch.setattr("cli.client.Client.json", lambda *_: {"data": [found], "has_more": False, "last_id": "batch_1"})
    assert "batch_1 waits: [red] Full." in omni("list").stderr


def test_an_api_that_dies_meanwhile_costs_nothing(omni, service, tmp_path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(b"".join(chat_line(number, tokens=60) for number in range(1, 101)))
    before = service.num_batches()

    def kill() -> None:
        wait_until(lambda: service.num_batches() > before)
        for process in service.harness.api_processes(2):
            process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    ended = omni("run", file, "--out", out)
    killer.join()
    assert ended.exit_code == 0, ended.output
    assert len(out.read_text().splitlines()) == 100
