"""A process's line as a terminal shows it, as a program reads it, and in the file of the log."""

import datetime
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.process.honcho_seams import Message
from common.process.output.greeting import Greeting
from common.process.output.log_file import NUM_OLD, LogFile, files_of
from common.process.output.output import Output
from common.process.output.printers import JsonPrinter, TerminalPrinter
from tests.chaos.harness import wait_until

GREETING = Greeting("/log", "http://127.0.0.1:1/health", "It is ready", (("page", "http://a/"), ("API", "b")), "sk-1")


def line(data: bytes | str, name: str = "api.1") -> Message:
    return Message("line", data, datetime.datetime(2026, 11, 27, 1, 2, 3), name, None)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b'{"time":"t","level":"info","message":"a"}\n', {"time": "t", "level": "info", "message": "a"}),
        (b"Traceback (most recent call last):\n", {"level": "info", "message": "Traceback (most recent call last):"}),
        (b"{not JSON \xff\n", {"level": "info", "message": "{not JSON \ufffd"}),
        (b"configuration: OMNI_X=1\n", {"level": "error", "message": "configuration: OMNI_X=1"}),
        ("api stopped (rc=1)", {"level": "info", "message": "api stopped (rc=1)"}),
    ],
)
def test_for_a_program_every_line_is_json_with_the_process(text: str | bytes, fields: dict[str, str]) -> None:
    output = io.StringIO()
    JsonPrinter(output).write(line(text))
    written = json.loads(output.getvalue())
    assert written.pop("process") == "api.1" and (written.pop("time") == "t" or "time" not in fields)
    assert written == {name: value for name, value in fields.items() if name != "time"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b'{"level":"info","message":"a"}\n', ["a"]),
        (b'{"level":"error","message":"a\\nb","exception":"x\\ny"}\n', ["error: a\\nb", "x", "y"]),
        (b'{"of": "another program"}\n', ['{"of": "another program"}']),
        (b"Killed\n", ["Killed"]),
    ],
)
def test_a_terminal_is_shown_level_message_and_exception(text: bytes, shown: list[str]) -> None:
    output = io.StringIO()
    TerminalPrinter(output, 6).write(line(text))
    assert output.getvalue().splitlines() == [f"01:02:03 api.1  | {part}" for part in shown]


def test_a_printer_that_hangs_keeps_no_line_from_the_others(tmp_path: Path) -> None:
    hangs, written = threading.Event(), tmp_path / "log"

    class Hanging:
        def write(self, message: Message) -> None:
            hangs.wait()

    output = Output(Hanging(), JsonPrinter(LogFile(written)))
    output.write("a", "one")
    output.write("a", "two")
    wait_until(lambda: written.exists() and written.read_text().count("\n") == 2, 20)
    hangs.set()
    output.close()


def test_a_greeting_is_a_box_on_a_terminal_and_a_line_without_the_key_in_the_log() -> None:
    screen, log = io.StringIO(), io.StringIO()
    box = GREETING.box(80, is_unicode=True)
    output = Output(TerminalPrinter(screen, 6, lambda: box), JsonPrinter(log))
    output.greet(GREETING.line())
    output.close()
    assert screen.getvalue().splitlines() == [
        "╭─ It is ready ────────╮",
        "│ page       http://a/ │",
        "│ API        b         │",
        "│ key        sk-1      │",
        "╰──────────────────────╯",
    ]
    told = json.loads(log.getvalue())
    assert (told["message"], told["page"], told["process"]) == ("It is ready", "http://a/", "system")
    assert "sk-1" not in log.getvalue()


def test_a_greeting_has_no_frame_that_the_terminal_could_not_show() -> None:
    assert GREETING.box(20, is_unicode=True)[0] == "It is ready"
    assert GREETING.box(80, is_unicode=False)[0].startswith("+- It is ready -")
    assert Greeting.decoded(GREETING.encoded()) == GREETING


def written_by(*files: LogFile) -> Callable[[int], None]:
    def write(number: int) -> None:
        files[number % len(files)].write(f"line {number:04}\n")

    return write


@pytest.mark.parametrize("num_runners", [1, 2])
def test_a_log_is_a_few_files_of_bounded_size_which_only_this_user_can_read(tmp_path: Path, num_runners: int) -> None:
    path = tmp_path / "log" / "service.log"
    write = written_by(*(LogFile(path, max_bytes=100) for _ in range(num_runners)))
    for number in range(100):
        write(number)
    files = files_of(path)
    assert len(files) in (NUM_OLD, NUM_OLD + 1) and all(file.stat().st_size <= 110 for file in files)
    kept = "".join(file.read_text() for file in reversed(files)).split("\n")[:-1]
    assert kept == [f"line {number:04}" for number in range(100 - len(kept), 100)] and len(kept) >= 30
    assert path.parent.stat().st_mode & 0o777 == 0o700 and files[-1].stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="no device that is full")
def test_a_line_that_cannot_be_kept_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    LogFile(tmp_path / "log").write("a line\n")
    (tmp_path / "file").touch()
    LogFile(tmp_path / "file" / "log").write("a line\n")
