"""The whole service as processes of its own, each of which a test can kill, stop, pause, break or replace.

Valkey on a unix socket (the checker's way in), a proxy in front of it for the others, API processes that share one
port which their supervisor holds, workers under common.process.supervise.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from redis import Redis
from redis.exceptions import RedisError

from common.process import embedded
from common.process.append_only import Syncing
from common.process.data_folder import take
from common.process.processes import die_with_parent
from common.process.valkey_seams import append_always
from common.settings import read_settings
from tests.chaos.pulse import Pulse
from tests.service import is_template, worker_of

ROOT = Path(__file__).parents[2]
KEYS = ("sk-chaos", "sk-other")
PYTHON = sys.executable


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0, what: str = "") -> None:
    """Poll a condition of other processes, which cannot wake us."""
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(RedisError, OSError, psutil.Error):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what or condition}")
        time.sleep(0.01)


@dataclass
class Options:
    """How a service is set up."""

    num_apis: int = 1
    num_workers: int = 1
    max_num_seqs: int = 64
    max_queue: int = 1000
    step_s: float = 0.01
    load_s: float = 0.0
    step_timeout: float = 5.0
    mutations: Sequence[str] = ()
    has_template: bool = True  # workers are forked from a process that has imported everything
    worker_module: str = "tests.chaos.fake_worker"
    api_module: str = "tests.chaos.fake_api"
    model: str = "fake"
    redis_url: str = ""  # instead of our own Valkey
    through_proxy: bool = True
    data_dir: Path | None = None  # e.g. a small file system
    environment: dict[str, str] = field(default_factory=dict)
    worker_environment: dict[str, str] = field(default_factory=dict)
    reader_grace_s: float = 30.0


class ValkeyEnded(Exception):
    """Valkey could not start; the message says why."""


class Process:
    """A child process with a log file, in a session of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.command = command
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent if threading.current_thread() is threading.main_thread() else None,
            )  # the kernel means the thread that started it, and others than the first end before us

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.popen.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def worker(self) -> psutil.Process:
        """The serving child of a supervisor."""
        return worker_of(self.popen.pid)

    def template(self) -> psutil.Process:
        return [child for child in psutil.Process(self.popen.pid).children() if is_template(child)][0]

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.popen.send_signal(number)

    def end(self) -> None:
        """Kill the process and its descendants."""
        for process in [*self.descendants(), self.popen]:
            with suppress(psutil.Error, ProcessLookupError):
                process.kill()
        self.popen.wait()


class Harness:
    """One running service."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="omni-"))
        self.data_dir = options.data_dir or self.folder / "data"
        self.data_dir.mkdir(exist_ok=True, mode=0o700)
        self.lock_fd = -1
        self.port, self.api_link, self.worker_link = free_ports(3)
        self.settings = read_settings({"OMNI_DATA_DIR": str(self.data_dir), "OMNI_MODEL_NAME": options.model})
        self.redis: Redis = Redis.from_url(options.redis_url or self.settings.redis.url, socket_timeout=5)
        self.valkey: Process | None = None
        self.is_stopped = threading.Event()
        self.proxy: subprocess.Popen[bytes] | None = None
        self.pulse_taker: Process | None = None
        self.apis: list[Process] = []
        self.workers: list[Process] = []

    @property
    def queue(self) -> str:
        return self.options.model

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if not self.options.redis_url:
            self.lock_fd = take(self.data_dir)
            self.start_valkey()
            threading.Thread(target=self.keep_appending, name="valkey's file", daemon=True).start()
            Syncing(self.data_dir).start()
        if self.options.through_proxy:
            self.start_proxy()
        if self.options.num_apis:
            self.start_api(OMNI_API_PROCESSES=str(self.options.num_apis))
        for _ in range(self.options.num_workers):
            self.start_worker()

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        try:
            wait_until(self.is_ready, timeout_s)
        except TimeoutError:
            raise TimeoutError(f"the service was not ready in {timeout_s} s:\n{self.logs()[-3000:]}") from None

    def is_ready(self) -> bool:
        fences = [int(fence) for fence in self.redis.zrange("omni:workers", 0, -1)]
        ready = sum(self.redis.hget(f"omni:worker:{fence}", "state") == b"ready" for fence in fences)
        return ready >= self.options.num_workers and self.num_listening() >= self.options.num_apis

    def num_listening(self) -> int:
        """The number of API processes whose hub has subscribed, so that they serve."""
        return int(self.redis.pubsub_numsub("omni:events:0")[0][1])

    def environment(self, redis_url: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("OMNI_") and name != "REDIS_URL"
        }
        return kept | {
            "OMNI_MODEL": "demo",
            "OMNI_MODEL_NAME": self.options.model,
            "OMNI_PORT": str(self.port),
            "OMNI_API_KEYS": ",".join(KEYS),
            "OMNI_DATA_DIR": str(self.data_dir),
            "OMNI_MAX_QUEUE": str(self.options.max_queue),
            "OMNI_MAX_NUM_SEQS": str(self.options.max_num_seqs),
            "OMNI_STEP_TIMEOUT": str(self.options.step_timeout),
            "REDIS_URL": redis_url,
            "CHAOS_STEP_S": str(self.options.step_s),
            "CHAOS_LOAD_S": str(self.options.load_s),
            "CHAOS_MUTATIONS": ",".join(self.options.mutations),
            "CHAOS_READER_GRACE_S": str(self.options.reader_grace_s),
            "PYTHONUNBUFFERED": "1",
        } | self.options.environment  # fmt: skip

    def url_of(self, link: int) -> str:
        if self.options.through_proxy:
            return f"redis://127.0.0.1:{link}/0"
        return self.options.redis_url or self.settings.redis.url

    def begin_valkey(self, *options: str) -> None:
        """As common.process.embedded does; returns at once."""
        embedded.prepare(self.settings)
        command = [*embedded.command(self.settings), *options]
        self.valkey = Process(command, dict(os.environ), self.folder / "valkey.out")

    def start_valkey(self) -> None:
        """Returns when it answers. Raises ValkeyEnded."""
        self.begin_valkey()
        wait_until(self.valkey_answers, 120, "Valkey")

    def valkey_answers(self) -> bool:
        assert self.valkey is not None
        if not self.valkey.is_alive:
            raise ValkeyEnded(embedded.reason_of(self.settings, self.valkey.popen.returncode))
        return bool(self.redis.ping())

    def start_again(self) -> str:
        """Start a second `redis` process in our folder; returns a fault or "". Ours answers afterwards."""
        assert self.valkey is not None
        first = self.socket_number()
        command = [PYTHON, "-m", "tests.chaos.fake_embedded"]
        second = Process(command, self.environment(""), self.folder / "second.out")
        wait_until(lambda: not second.is_alive or self.socket_number() != first, 60, "a second start to be refused")
        if not second.is_alive and second.popen.returncode == 2 and self.socket_number() == first:
            return ""
        second.end()
        self.kill_valkey()
        self.start_valkey()
        return "a second start in the same folder was let in"

    def socket_number(self) -> int:
        """A number that grows each time another server takes the socket."""
        return self.settings.redis.socket_path.stat().st_ino if self.settings.redis.socket_path.exists() else 0

    def keep_appending(self) -> None:
        while not self.is_stopped.wait(0.1):
            if self.valkey is not None:
                append_always(self.valkey.popen.pid, self.data_dir)

    def start_proxy(self) -> None:
        target = self.settings.redis.socket_path
        command = [
            PYTHON,
            "-m",
            "tests.chaos.proxy",
            f"api:{self.api_link}:{target}",
            f"worker:{self.worker_link}:{target}",
        ]
        self.proxy = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent
        )
        assert self.proxy.stdout is not None
        self.proxy.stdout.readline()

    def take_pulse(self) -> None:
        """Record the states of the service from now on."""
        command = [PYTHON, "-m", "tests.chaos.pulse", str(self.settings.redis.socket_path)]
        self.pulse_taker = Process(command, dict(os.environ), self.folder / "pulse")

    def pulse(self) -> Pulse:
        with suppress(FileNotFoundError), (self.folder / "pulse").open() as lines:
            return Pulse(lines)
        return Pulse()

    def start_api(self, **environment: str) -> Process:
        command = [
            PYTHON,
            "-m",
            "common.process.supervise",
            "api",
            "--listen",
            "--",
            PYTHON,
            "-m",
            self.options.api_module,
        ]
        process = Process(command, self.environment(self.url_of(self.api_link)) | environment, self.folder / "api.out")
        self.apis.append(process)
        return process

    def api_processes(self, depth: int = 1) -> list[psutil.Process]:
        """depth 1: gunicorn's arbiters, 2: those that serve."""
        found = [psutil.Process(api.popen.pid) for api in self.apis]
        for _ in range(depth):
            found = [child for process in found for child in process.children()]
        return found

    def start_worker(self, **environment: str) -> Process:
        command = [
            PYTHON,
            "-m",
            "common.process.supervise",
            "worker",
            "--watch",
            *(["--template"] if self.options.has_template else []),
            "--",
            PYTHON,
            "-m",
            self.options.worker_module,
        ]
        ours = self.environment(self.url_of(self.worker_link)) | self.options.worker_environment | environment
        process = Process(command, ours, self.folder / "worker.out")
        self.workers.append(process)
        return process

    def link(self, name: str, command: str, value: float = 0.0) -> None:
        """Send the proxy a command for a link ("api" or "worker")."""
        assert self.proxy is not None and self.proxy.stdin is not None and self.proxy.stdout is not None
        self.proxy.stdin.write(f"{name} {command} {value}\n".encode())
        self.proxy.stdin.flush()
        self.proxy.stdout.readline()

    def kill_valkey(self) -> None:
        assert self.valkey is not None
        self.valkey.popen.kill()
        self.valkey.popen.wait()

    def kill_worker(self, number: int = 0, sig: int = signal.SIGKILL) -> int:
        """The worker itself, not its parent; returns its pid."""
        child = self.workers[number].worker()
        child.send_signal(sig)
        return child.pid

    def crashes(self) -> int:
        return int(self.redis.get(f"omni:crashes:{self.queue}") or 0)

    def hub_readers(self) -> int:
        """The number of open connections to the port: one for each stream."""
        mine = psutil.Process().net_connections("tcp")
        return sum(one.status == "ESTABLISHED" and one.raddr and one.raddr.port == self.port for one in mine)

    def job(self, job_id: str) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.redis.hgetall(f"omni:job:{job_id}").items()}

    def state(self, job_id: str) -> str:
        return (self.redis.hget(f"omni:job:{job_id}", "state") or b"").decode()

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.out")))

    def stop(self) -> None:
        self.is_stopped.set()
        for process in [*self.workers, *self.apis, *([self.pulse_taker] if self.pulse_taker else [])]:
            process.end()
        if self.proxy is not None:
            self.proxy.kill()
            self.proxy.communicate()
        self.redis.close()
        if self.valkey is not None:
            self.valkey.end()
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(options: Options | None = None, *, wait: bool = True) -> Iterator[Harness]:
    harness = Harness(options or Options())
    try:
        harness.start()
        if wait:
            harness.wait_ready()
        yield harness
    finally:
        harness.stop()
