"""Every program of docs/cookbook.md, run as it is written there against the whole real service.

Those in JavaScript and the one with Anthropic's client need packages that `make conformance` installs: it runs them.
"""

import base64
import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx2
import pytest

from tests.models import save_encoder
from tests.pictures import data_url
from tests.service import ROOT, RunningService, free_port
from tests.vision_models import save_vision_model

BLOCK = re.compile(r"^```(\w+)\n(?:#|//) ([\w.]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COOKBOOK = (ROOT / "docs" / "cookbook.md").read_text()
PROGRAMS = {name: text for _, name, text in BLOCK.findall(COOKBOOK)}
SETTINGS, RECEIVERS = "settings.sh", ("receiver.py", "receiver.mjs")
NODE_MODULES = ROOT / "tests" / "conformance" / "node" / "node_modules"
CLIENTS_PYTHON = ROOT / ".venv-conformance" / "openai3" / "bin" / "python"
PROGRAM_S = 100
IS_CONFORMANCE = os.environ.get("COOKBOOK_PROGRAMS") == "clients"  # those that `make test` leaves out, and no others
RESUMING = ("resume.sh", "resume.py", "resume.mjs")
TYPED = {"chat.py": "My name is Ada.\nWhat is my name?\n", "chat.mjs": "My name is Ada.\nWhat is my name?\n"}
TABLE = """
[[model]]
id = "deepseek-v3.2"
model = "demo"

[[model]]
id = "qwen2.5-vl-7b"
model = "{vision}"

[[model]]
id = "{encoder.name}"
model = "{encoder}"
"""
JOKE = r"(?s)\A\w.{10,}"
WEATHER = r"(?s)get_weather.+Paris.+In Paris it is 21 degrees and sunny\."
EXPECTED = {  # a file that the program leaves or "" for what it prints -> a pattern of it
    "stream.sh": {"": JOKE},
    "chat.py": {"": r"(?s)\A> .*\w.*\n> .*\w.*\n"},
    "chat.mjs": {"": r"(?s)\A> .*\w.*\n> .*\w.*\n"},
    "fetch.mjs": {"": JOKE},
    "tools.sh": {"": WEATHER},
    "tools.py": {"": WEATHER},
    "tools.mjs": {"": WEATHER},
    "structured.sh": {"": r'"verdict": "(good|bad)",\s+"stars": [1-5]\n'},
    "structured.py": {"": r"\A(good|bad) [1-5]\n"},
    "structured.mjs": {"": r"\A(good|bad) [1-5]\n"},
    "image.sh": {"": r"."},
    "image.py": {"": r"."},
    "image.mjs": {"": r"."},
    "background.sh": {"": r"(?s)\A(queued\n|in_progress\n)*completed\n\w.{10,}"},
    "background.py": {"": r"(?s)\A(queued|in_progress) place .+completed \w.{10,}"},
    "background.mjs": {"": r"(?s)\A(queued|in_progress) place .+completed \w.{10,}"},
    "batch_from_csv.py": {"answers.csv": r"id,answer\s+7,.+\s+8,.+", "": "completed 2 of 2"},
    "batch.mjs": {"output.jsonl": r'(?s)"custom_id":\s*"7".*"custom_id":\s*"8"', "": "completed"},
    "batch.sh": {"output.jsonl": r'(?s)"custom_id":\s*"7".*"custom_id":\s*"8"'},
    "claude_batch.py": {"": r"(?s)sky .+\nsea .+"},
    "embed_folder.py": {"vectors.json": r'"notes/a/one.txt": \[', "": r"2 vectors of \d+ numbers"},
    "embed_folder.mjs": {"vectors.json": r'"notes/a/one.txt":\[', "": r"2 vectors of \d+ numbers"},
    "embed_folder.sh": {"vectors.json": r'"notes/a/one.txt": \[\s+-?\d'},
    "flex.py": {"": r"(?s)again\. -> .+day\. -> .+should\. -> "},
    "flex.mjs": {"": r"(?s)flex .+flex "},
    "flex.sh": {"": r"(?s)flex .+flex "},
    "tonight.py": {"": r"resp_\w+ queued"},
    "in_an_hour.mjs": {"": r"resp_\w+ queued"},
    "in_an_hour.sh": {"": r'"scheduled_for"'},
    "endpoint.sh": {"": "whsec_"},
    "endpoint.py": {"": r"\Awe_\w+ whsec_"},
    "endpoint.mjs": {"": r"\Awe_\w+ whsec_"},
    "ask.sh": {"": r"\Aresp_\w+ (queued|in_progress)"},
    "ask.py": {"": r"\Aresp_\w+ (queued|in_progress)"},
    "ask.mjs": {"": r"\Aresp_\w+ (queued|in_progress)"},
    "dataset.py": {"dataset.jsonl": r'\{"messages": \[\{"role": "user", .*\{"role": "assistant"'},
    "dataset.mjs": {"dataset.jsonl": r'\{"messages":\[\{"role":"user",.*\{"role":"assistant"'},
    "dataset.sh": {"dataset.jsonl": r'\{"messages":\[\{"role":"user",.*\{"role":"assistant"'},
    "conversation.py": {"": r"(?s).*user My name is Ada.*user What is my name\?"},
    "conversation.mjs": {"": r"."},
    "conversation.sh": {"": r"(?s)\w.*\n.*\w"},
    "usage.sh": {"usage.csv": r"key.*gpu_seconds"},
    "usage.mjs": {"usage.csv": r"key.*gpu_seconds"},
    "usage.py": {"": r"\d s"},
}


def needs_clients(name: str) -> bool:
    return name.endswith(".mjs") or "import anthropic" in PROGRAMS[name]


def run_here(names: Iterable[str]) -> list[str]:
    return [name for name in names if needs_clients(name) == IS_CONFORMANCE]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("models")
    encoder = save_encoder(folder / "bge-small-en-v1.5")
    vision = save_vision_model(folder / "vision", "llava")
    (folder / "models.toml").write_text(TABLE.format(encoder=encoder, vision=vision))
    settings = {"OMNI_MODELS": str(folder / "models.toml"), "OMNI_WEBHOOK_HOSTS": "127.0.0.1"}
    service = RunningService(tmp_path_factory.mktemp("cookbook"), settings)
    del service.env["OMNI_MODEL"]
    with service:
        service.start("redis", "api", "worker", "dispatcher")
        service.wait_healthy()
        yield service


@pytest.fixture(scope="module")
def environment(running: RunningService, port: int) -> Mapping[str, str]:
    """What settings.sh exports, for this service."""
    ours = {
        "OPENAI_BASE_URL": f"{running.url}/v1",
        "OPENAI_API_KEY": running.key,
        "ANTHROPIC_BASE_URL": running.url,
        "ANTHROPIC_API_KEY": running.key,
        "ADMIN_KEY": running.key,
        "HOOK_URL": f"http://127.0.0.1:{port}/hook",
    }
    assert set(re.findall(r"(\w+)=", PROGRAMS[SETTINGS])) == set(ours)
    return os.environ | ours


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all programs and what they read."""
    folder = tmp_path_factory.mktemp("kitchen")
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
    (folder / "reviews.csv").write_text("id,text\n7,It is good.\n8,It is bad.\n")
    (folder / "notes" / "a").mkdir(parents=True)
    (folder / "notes" / "a" / "one.txt").write_text("the quick brown fox")
    (folder / "notes" / "two.txt").write_text("a stream of tokens")
    (folder / "photo.png").write_bytes(base64.b64decode(data_url("red").partition(",")[2]))
    if NODE_MODULES.is_dir():
        (folder / "node_modules").symlink_to(NODE_MODULES)
    return folder


def command(name: str) -> list[str]:
    """The interpreter and the program. Skips the test where a tool is missing."""
    kind = name.rpartition(".")[2]
    for tool in {"sh": ["curl", "jq"], "mjs": ["node"], "py": []}[kind]:
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    if kind == "mjs" and not NODE_MODULES.is_dir():
        pytest.skip("the packages of tests/conformance/node are not installed")
    python = str(CLIENTS_PYTHON) if needs_clients(name) else sys.executable
    if kind == "py" and not Path(python).exists():
        pytest.skip("anthropic is not installed")
    return [{"py": python, "sh": "bash", "mjs": "node"}[kind], name]


def printed(name: str, folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command(name),
        cwd=folder,
        env=environment,
        input=TYPED.get(name, ""),
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_has_a_name_and_is_run() -> None:
    assert COOKBOOK.count("\n```") == 2 * len(PROGRAMS)
    assert set(PROGRAMS) == {*EXPECTED, *RESUMING, *RECEIVERS, SETTINGS}


@pytest.mark.parametrize("name", run_here(RESUMING))
def test_an_answer_goes_on_where_the_network_broke(
    name: str, kitchen: Path, environment: Mapping[str, str], running: RunningService
) -> None:
    with torn(running.port, after=4_000, times=2) as (port, torn_at):
        output = printed(name, kitchen, {**environment, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"})
    assert len(torn_at) == 2
    client = running.openai()
    with running.http() as http:
        ended = [job["id"] for job in http.get("/v1/jobs").json()["data"] if job["state"] == "finished"]
    if name.endswith(".sh"):
        text = client.chat.completions.retrieve(ended[0]).choices[0].message.content
    else:
        text = client.responses.retrieve(ended[0]).output_text
    assert output == text


def test_a_refused_report_does_not_replace_the_last_one(tmp_path: Path, environment: Mapping[str, str]) -> None:
    (tmp_path / "usage.sh").write_text(PROGRAMS["usage.sh"])
    (tmp_path / "usage.csv").write_text("the last one")
    refused = {**environment, "ADMIN_KEY": "sk-of-another"}
    done = subprocess.run(
        command("usage.sh"), cwd=tmp_path, env=refused, capture_output=True, text=True, timeout=PROGRAM_S
    )
    assert done.returncode == 1 and "API key" in done.stderr and done.stdout == ""
    assert (tmp_path / "usage.csv").read_text() == "the last one"


@pytest.mark.parametrize("name", run_here(EXPECTED))
def test_a_program_does_what_it_says(name: str, kitchen: Path, environment: Mapping[str, str]) -> None:
    if name.startswith("batch.") and not (kitchen / "lines.jsonl").exists():
        printed("batch_from_csv.py", kitchen, environment)  # which leaves it
    output = printed(name, kitchen, environment)
    for file, pattern in EXPECTED[name].items():
        text = (kitchen / file).read_text() if file else output
        assert re.search(pattern, text), text


@pytest.mark.parametrize("name", run_here(RECEIVERS))
def test_a_receiver_takes_what_is_signed_and_nothing_else(
    name: str, kitchen: Path, environment: Mapping[str, str], port: int, running: RunningService
) -> None:
    start = command(name)
    if name.endswith(".py"):
        start = [sys.executable, "-m", "flask", "--app", "receiver", "run", "--port", str(port)]
    endpoint = json.loads(printed("endpoint.sh", kitchen, environment))
    url, secret = environment["HOOK_URL"], endpoint["signing_secret"]
    received = (kitchen / f"{name}.txt").open("w+")
    process = subprocess.Popen(
        start,
        cwd=kitchen,
        env={**environment, "OPENAI_WEBHOOK_SECRET": secret, "PORT": str(port)},
        stdout=received,
        stderr=subprocess.STDOUT,
    )
    try:
        until_it_listens(url, process)
        forged = {"webhook-id": "evt_1", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,AAAA"}
        assert httpx2.post(url, json={"id": "evt_1"}, headers=forged).status_code == 400
        printed("ask.py", kitchen, environment)
        deadline = time.monotonic() + 30
        while "response.completed" not in (text := (kitchen / f"{name}.txt").read_text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(10)
        received.close()
        running.openai().webhooks.delete(endpoint["id"])


@contextmanager
def torn(target: int, after: int, times: int) -> Iterator[tuple[int, list[int]]]:
    """The port of a proxy that cuts as many connections, each in the middle of an answer; and where it cut them."""
    torn_at: list[int] = []

    class Link(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", target)) as service:
                Thread(target=pump, args=(self.request, service), daemon=True).start()
                pump(service, self.request, cut)

    def cut(passed: int) -> bool:
        if is_torn := passed > after and len(torn_at) < times:
            torn_at.append(passed)
        return is_torn

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Link) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1], torn_at
        server.shutdown()


def pump(source: socket.socket, target: socket.socket, cut: Callable[[int], bool] = lambda passed: False) -> None:
    passed = 0
    try:
        while (data := source.recv(4096)) and not cut(passed := passed + len(data)):
            target.sendall(data)
    except OSError:  # either end has left
        pass


def until_it_listens(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            httpx2.get(url)
            return
        except httpx2.TransportError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
