"""The supervisor: restarts children, passes fences and signals on, kills hanging steps."""

import os
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from common.process.child import STOP_S, Child, Command, Watch
from tests.chaos.harness import free_ports, wait_until

ROOT = Path(__file__).parents[3]
TEMPLATED = (sys.executable, "-m", "common.process.supervise", "worker", "--watch", "--template", "--", sys.executable)
CHILD = """
import os, sys, time, signal
if "--template-fd" in sys.argv:
    from worker import template
    if os.environ.get("USES_CUDA"):
        template.uses_cuda = lambda: True
    sys.argv[1:] = template.fork_when_asked(int(sys.argv[2]))
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
fd, told = int(args["--watch-fd"]), int(args["--predecessor"] or 0)
log = open({log!r}, "a")
print(told, file=log, flush=True)
if told >= {lives}:
    sys.exit(2)
os.write(fd, b"fences %d\\n" % (told + 1))
os.write(fd, b"begin\\n")
{then}
"""


@pytest.fixture(params=["executed", "forked", "forked and executed"])
def extra(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a supervisor: without a template, with one, and with one that uses CUDA."""
    if request.param == "forked and executed":
        monkeypatch.setenv("USES_CUDA", "1")
    return [] if request.param == "executed" else ["--template"]


def supervise(
    tmp_path: Path, extra: list[str], then: str, lives: int = 3, timeout: str = "30"
) -> "subprocess.Popen[bytes]":
    child = tmp_path / "child.py"
    child.write_text(CHILD.format(log=str(tmp_path / "log"), lives=lives, then=then))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNI_")}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "common.process.supervise",
            "worker",
            "--watch",
            *extra,
            "--",
            sys.executable,
            str(child),
        ],
        cwd=ROOT,
        env=environment | {"OMNI_STEP_TIMEOUT": timeout, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_the_successor_of_a_dead_child_gets_its_fence(tmp_path: Path, extra: list[str]) -> None:
    """Even if it died within a step and soon."""
    parent = supervise(tmp_path, extra, "os.kill(os.getpid(), 9)", lives=5)
    assert parent.wait(30) == 2, "wrong settings are not tried again"
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3", "4", "5"]


def test_a_hanging_step_is_killed_even_if_it_holds_the_gil(tmp_path: Path, extra: list[str]) -> None:
    parent = supervise(tmp_path, extra, "import ctypes; ctypes.PyDLL(None).sleep(1000)", lives=2, timeout="0.3")
    assert parent.wait(30) == 2
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2"]
    assert parent.stdout is not None and b"killing it" in parent.stdout.read()


@pytest.mark.parametrize("heeds", [True, False])
def test_sigterm_reaches_the_child_and_sigkill_follows(tmp_path: Path, extra: list[str], heeds: bool) -> None:
    then = "" if heeds else "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    parent = supervise(tmp_path, extra, then + "os.write(fd, b'end\\n')\nprint('up', flush=True)\ntime.sleep(1000)")
    assert parent.stdout is not None
    assert b"up\n" in iter(parent.stdout.readline, b"")
    asked = time.monotonic()
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 0
    assert (time.monotonic() - asked < STOP_S) == heeds


def test_the_end_does_not_wait_for_a_child_that_is_not_forked_yet(tmp_path: Path) -> None:
    template = tmp_path / "child.py"
    template.write_text("import time\nprint('imports', flush=True)\ntime.sleep(1000)")
    parent = subprocess.Popen([*TEMPLATED, str(template)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"imports\n"
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(3) == 0


def test_only_the_template_looks_for_gpus_without_initializing_cuda(tmp_path: Path) -> None:
    told = "print(os.environ.get('PYTORCH_NVML_BASED_CUDA_CHECK'))\n"
    child = tmp_path / "child.py"
    forks = "import os, sys\nfrom worker.template import fork_when_asked\n"
    child.write_text(f"{forks}{told}sys.stdout.flush()\nfork_when_asked(int(sys.argv[2]))\n{told}sys.exit(2)")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([*TEMPLATED, str(child)], cwd=ROOT, env=environment, capture_output=True, timeout=30)
    assert (ended.stdout.split(), ended.returncode) == ([b"1", b"None"], 2)


def test_a_template_that_ends_without_a_child_is_restarted(tmp_path: Path) -> None:
    template = tmp_path / "child.py"
    template.write_text("print('began', flush=True)")
    parent = subprocess.Popen([*TEMPLATED, str(template)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert parent.stdout is not None
    began = 0
    while began < 3:
        began += parent.stdout.readline() == b"began\n"
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(3) == 0


def test_a_dead_childs_step_is_not_its_successors() -> None:
    watch = Watch(step_timeout_s=0.0)
    os.write(watch.write_fd, b"fences 7,8\nbegin\n")
    watch.forget_child()
    assert (watch.fences, watch.is_stuck) == ("7,8", False)


@pytest.mark.parametrize(
    ("lines", "died_in"),
    [
        (b"begin 7\n", "step 7"),
        (b"begin 7\nend\nbegin 8\n", "step 8"),
        (b"begin 7\nend\n", ""),
        (b"load big\nbegin 7\n", "load 1 big"),  # its memory may be what killed the process
        (b"load big\nload\nbegin 7\n", "step 7"),
    ],
)
def test_a_successor_is_told_what_its_predecessor_died_in(lines: bytes, died_in: str) -> None:
    watch = Watch(step_timeout_s=0.0)
    os.write(watch.write_fd, b"fences 7,8\n" + lines)
    watch.forget_child()
    assert watch.died_in == died_in
    os.write(watch.write_fd, b"fences 9\n")
    watch.forget_child()
    assert watch.died_in == ""


def test_a_successor_is_told_how_often_the_loading_of_a_model_was_deadly() -> None:
    watch, told = Watch(step_timeout_s=0.0), []
    for queue in (b"big", b"big", b"other", b"big"):
        os.write(watch.write_fd, b"load " + queue + b"\n")
        watch.forget_child()
        told.append(watch.died_in)
    assert told == ["load 1 big", "load 2 big", "load 1 other", "load 1 big"]
    os.write(watch.write_fd, b"load big\n")
    watch.forget_child(is_death=False)  # it was asked to stop
    assert watch.died_in == ""


def test_a_worker_that_dies_in_its_start_changes_no_count_of_deaths() -> None:
    watch, told = Watch(step_timeout_s=0.0), []
    for lines in (b"fences 1\nload big\n", b"", b"fences 2\nload big\n", b"", b"fences 3\n"):
        os.write(watch.write_fd, lines or b"end\n")
        watch.forget_child()
        told.append(watch.died_in)
    assert told == ["load 1 big", "load 1 big", "load 2 big", "load 2 big", ""]


class Unkillable:
    """A process that the kernel holds, until `status` is set."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.kill = self.poll = lambda: self.status


def test_a_step_that_hangs_is_reported_once_however_long_its_process_takes_to_die(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.process.child.subprocess.Popen", lambda *_, **__: Unkillable())
    child = Child(Command("worker", ["worker"], step_timeout_s=0.0, is_worker=True), count(0, 100).__next__)
    assert child.watch is not None
    for num_told in (1, 2):  # its successor's step is another
        child.tick()
        os.write(child.watch.write_fd, b"begin 1\n")
        for _ in range(4):
            child.tick()
        assert caplog.text.count("a step took longer") == num_told
        child._process.status = -9
        child.tick()
    child.close()


def test_lines_may_arrive_in_pieces() -> None:
    watch = Watch(step_timeout_s=0.0)
    os.write(watch.write_fd, b"fences 1")
    watch.read(1.0)
    assert watch.fences == ""
    os.write(watch.write_fd, b"2\nbeg")
    watch.read(1.0)
    assert (watch.fences, watch.is_stuck) == ("12", False)
    os.write(watch.write_fd, b"in\n")
    watch.read(1.0)
    assert watch.is_stuck


SERVER = """
import argparse, os, pathlib, signal, socket, sys, time
parser = argparse.ArgumentParser()
for name in ("--listen-fd", "--watch-fd"):
    parser.add_argument(name, type=int)
args = parser.parse_args()
generation = pathlib.Path({generation!r}).read_text()
with open({log!r}, "a") as log:
    print(generation, file=log)
if generation == "broken":
    sys.exit(2)
leaving = []
signal.signal(signal.SIGTERM, lambda *_: leaving.append(1))
port = socket.socket(fileno=args.listen_fd)
port.settimeout(0.05)
os.write(args.watch_fd, b"ready\\n")
while not leaving:
    try:
        caller, _ = port.accept()
    except TimeoutError:
        continue
    with caller:
        caller.sendall(generation.encode())
"""


def ask(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        return caller.recv(100).decode()


def test_sighup_replaces_processes_in_turn_unless_the_new_one_cannot_start(tmp_path: Path) -> None:
    generation = tmp_path / "generation"
    generation.write_text("first")
    server = tmp_path / "server.py"
    server.write_text(SERVER.format(generation=str(generation), log=str(tmp_path / "log")))
    [port] = free_ports(1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNI_")}
    parent = subprocess.Popen(
        [sys.executable, "-m", "common.process.supervise", "api", "--listen", "--", sys.executable, str(server)],
        cwd=ROOT,
        env=environment | {"OMNI_PORT": str(port), "OMNI_API_PROCESSES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert parent.stdout is not None
        wait_until(lambda: (tmp_path / "log").read_text().split() == ["first"] * 2, 20)
        assert ask(port) == "first"
        generation.write_text("broken")
        parent.send_signal(signal.SIGHUP)
        assert b"the old ones continue" in parent.stdout.readline()
        assert {ask(port) for _ in range(20)} == {"first"}
        generation.write_text("second")
        parent.send_signal(signal.SIGHUP)
        seen = []
        while seen[-20:] != ["second"] * 20:
            seen.append(ask(port))
        assert set(seen) <= {"first", "second"}
    finally:
        parent.terminate()
        parent.communicate(timeout=10)
    assert parent.returncode == 0
