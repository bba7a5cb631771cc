"""Starts the real service for tests: Valkey, gunicorn and a worker with the demo model, on free ports."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2
import openai
import psutil
from redis import Redis

from common.redis.connection import connect

ROOT = Path(__file__).resolve().parent.parent
START_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_template(process: psutil.Process) -> bool:
    """True for a template. A worker forked from it has the same command line but another process name."""
    return "--template-fd" in process.cmdline() and process.name() != "omni-worker"


def is_keeper(process: psutil.Process) -> bool:
    return "common.process.keeper" in process.cmdline()


def worker_of(supervisor: int) -> psutil.Process:
    """The serving child of a supervisor, neither its template nor its keeper."""
    children = psutil.Process(supervisor).children()
    return [child for child in children if not is_template(child) and not is_keeper(child)][0]


class RunningService:
    """The processes of one instance. `stop()`, or the end of a `with`, ends them all."""

    code = ROOT  # the checkout that they run

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, api_module: str = "api.server") -> None:
        self.folder = folder
        self.api_module = api_module
        folder.chmod(0o700)  # our log lies in it, so it would not be taken for a folder of the service
        self.port = free_port()
        self.dashboard_port = free_port()
        self.key = "sk-local"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMNI_", "REDIS_URL"))}
        self.env = inherited | {
            "OMNI_DATA_DIR": str(folder),
            "OMNI_PORT": str(self.port),
            "OMNI_DASHBOARD_PORT": str(self.dashboard_port),
            "OMNI_MODEL": "demo",
            "OMNI_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **(settings or {}),
        }
        self.env_of: dict[str, dict[str, str]] = {}  # additional environment of one process
        self.log_path = folder / "service.log"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def redis_url(self) -> str:
        return self.env.get("REDIS_URL") or f"unix://{self.folder.resolve()}/valkey.sock"

    def worker(self) -> psutil.Process:
        return worker_of(self.processes["worker"].pid)

    def redis(self) -> "Redis":
        return connect(self.redis_url)

    def openai(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, **options)  # type: ignore[arg-type]

    def http(self, **options: object) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, **options)  # type: ignore[arg-type]

    def __enter__(self) -> "RunningService":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *names: str) -> "RunningService":
        """Start the named processes, all but the dashboard by default, and wait until the service is healthy."""
        for name in names or ("redis", "api", "worker"):
            self.spawn(name)
        if not names:
            self.wait_healthy()
        return self

    def spawn(self, name: str) -> "subprocess.Popen[bytes]":
        with self.log_path.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *self.command(name, self.api_module)],
                cwd=self.code,
                env=self.env | self.env_of.get(name, {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.processes[name]

    @staticmethod
    def command(name: str, api_module: str = "api.server") -> list[str]:
        """The Procfile's command, run by this interpreter."""
        run = ["common.process.supervise", name]
        worker = ["--", sys.executable, "-m", "worker.main"]
        server = ["--", sys.executable, "-m", api_module]
        return {
            "redis": ["common.process.embedded"],
            "api": [*run, "--listen", *server],
            "worker": [*run, "--watch", "--template", *worker],
            "embedder": [*run, "--watch", "--template", "--if", "embedding", *worker, "--embeddings"],
            "reranker": [*run, "--watch", "--template", "--if", "embedding", *worker, "--embeddings"],
            "dispatcher": [*run, "--", sys.executable, "-m", "dispatcher.main"],
            "dashboard": [*run, "--listen", "dashboard", *server, "dashboard"],
        }[name]

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                if httpx2.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(0.05)
        raise TimeoutError(f"the service did not become healthy:\n{self.log()[-4000:]}")

    def stream(self, num_tokens: int, at: int, then: Callable[[], None]) -> str:
        """The text of one greedy answer of the model "tiny"; `then` is called at chunk number `at`."""
        text = ""
        answer = self.openai().completions.create(
            model="tiny", prompt="the quick brown fox", max_tokens=num_tokens, temperature=0, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        for number, chunk in enumerate(answer):
            text += chunk.choices[0].text if chunk.choices else ""
            if number == at:
                then()
        return text

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> None:
        """SIGTERM to every process, the queue's server last; SIGKILL to a group that does not end."""
        for name in sorted(self.processes, key=lambda name: name == "redis"):
            process = self.processes[name]
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(8)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(5)


def without_comments(stream: str) -> str:
    """Server-sent events without comments, the lines that begin with a colon, and the blank lines after them."""
    return re.sub(r"^:.*\n\n?", "", stream, flags=re.MULTILINE)
