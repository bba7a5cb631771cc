"""Processes that end together, print lines with their names, and never wait for the reader of the output."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from common.process.procfile import UnknownProcess, commands_of
from tests.chaos.harness import wait_until
from tests.service import ROOT

CODE = """
import json, os, sys
import common.process.procfile
from common.process.procfile import Group, Output, TerminalPrinter
common.process.procfile.STOP_S = 0.5
output = Output(TerminalPrinter(sys.stdout, 6))
status = Group(output).run(json.loads(sys.argv[1]))
output.close()
os._exit(status % 256)
"""


def run(commands: Mapping[str, str], output: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", CODE, json.dumps(commands)]
    return subprocess.Popen(words, cwd=ROOT, stdout=output, text=True, start_new_session=True)


def runs(pid: str) -> bool:
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_lines_begin_with_the_process_and_the_first_end_ends_all() -> None:
    ended = run({"one": "echo first; echo last >&2; exit 7", "two": "exec sleep 100"})
    written, _ = ended.communicate(timeout=20)
    assert ended.returncode == 7
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in written.splitlines()]
    lines = [re.sub(r"\d{2,}", "N", line) for line in lines]
    assert lines[:2] == ["system | one started (pid=N)", "system | two started (pid=N)"]
    assert {"one    | first", "one    | last"} <= {*lines}
    assert {"system | warning: one stopped (rc=7)", "system | two stopped (rc=-N)"} <= {*lines}


@pytest.mark.parametrize(("signals", "starts"), [("KILL", 6), ("SEGV", 6), ("TERM", 1)])
def test_what_a_signal_has_killed_starts_again_five_times(tmp_path: Path, signals: str, starts: int) -> None:
    """With the child that it leaves behind gone; a SIGTERM means that it is to end."""
    child = f"sleep 100 & echo $! >> {tmp_path}/children; ulimit -c 0"
    ended = run({"one": f"echo again; {child}; kill -{signals} $$", "two": "exec sleep 100"})
    written, _ = ended.communicate(timeout=20)
    lines = written.splitlines()
    assert sum("| again" in line for line in lines) == sum("one started" in line for line in lines) == starts
    assert sum("two started" in line for line in lines) == 1
    children = (tmp_path / "children").read_text().split()
    assert not any(map(runs, children[: starts - 1]))


def test_on_a_terminal_names_have_colours() -> None:
    ours, theirs = pty.openpty()
    ended = run({"one": "echo first", "two": "exec sleep 100"}, theirs)
    ended.wait(20)
    written = os.read(ours, 65536)
    assert re.search(rb"\x1b\[0m\x1b\[36m[\d:]{8} one    \| \x1b\[0mfirst", written)
    assert ended.returncode == 0


def test_a_process_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    stubborn = f"trap '' TERM; touch {tmp_path}/ready; while :; do sleep 100; done"
    ended = run({"one": stubborn, "two": "exec sleep 100"})
    wait_until((tmp_path / "ready").exists, 20)
    ended.send_signal(signal.SIGTERM)
    written, _ = ended.communicate(timeout=20)
    assert "SIGTERM received" in written and "sending SIGKILL to one" in written
    assert ended.returncode == 128 + signal.SIGTERM


def test_a_signal_while_they_start_ends_all() -> None:
    for _ in range(20):
        ended = run({str(number): "exec sleep 100" for number in range(20)})
        assert ended.stdout is not None
        ended.stdout.readline()  # the first has started
        ended.send_signal(signal.SIGINT)
        ended.communicate(timeout=20)
        assert ended.returncode == 128 + signal.SIGINT


def test_a_process_can_write_without_a_reader(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    ended = run({"one": f"yes | head -c 200000; touch {tmp_path}/written; exec sleep 100"}, writer)
    os.close(writer)
    wait_until((tmp_path / "written").exists, 30)
    ended.send_signal(signal.SIGTERM)
    assert ended.wait(20) == 128 + signal.SIGTERM
    os.close(reader)


def test_an_orphan_with_an_open_pipe_does_not_delay_the_end() -> None:
    ended = run({"one": "setsid sleep 5 & exit 3"})
    ended.wait(4)
    assert ended.returncode == 3


def test_the_commands_come_from_the_procfile() -> None:
    assert list(commands_of([])) == ["redis", "api", "worker", "embedder", "dispatcher", "dashboard"]
    assert list(commands_of(["api", "redis"])) == ["api", "redis"]
    with pytest.raises(
        UnknownProcess, match=r"apj is not a process of the Procfile; did you mean api\? It has redis, api, worker"
    ):
        commands_of(["apj"])
