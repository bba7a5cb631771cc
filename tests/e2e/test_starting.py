"""First and second starts, and the death of the starter: with `make run`, `omni serve` and plain honcho."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from common.model.gpu_driver import has_driver
from common.process.start import check
from common.settings import DEMO_MODEL, read_settings
from tests.chaos.harness import wait_until
from tests.service import ROOT, RunningService, free_port
from tests.started import HONCHO, START, Started, end_all

BODY = {"model": "omni-demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


def owner_of(started: Started) -> psutil.Process | None:
    """The process that has started Valkey."""
    for child in started.everybody():
        with suppress(psutil.Error):
            if "common.process.embedded" in child.cmdline():
                return child
    return None


def ask(service: RunningService, **fields: object) -> httpx2.Response:
    return service.http().post("/v1/chat/completions", json=BODY | fields)


def refused(environment: Mapping[str, str], *command: str) -> str:
    """The one sentence of a start that was refused before any process began."""
    ended = subprocess.run(
        command or START,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    [sentence] = ended.stderr.splitlines()
    return sentence


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return RunningService(tmp_path).env | {"OMNI_DATA_DIR": str(tmp_path / "data")}


@pytest.mark.parametrize("name", ["/nope", "./nope", "../nope", "~/nope", "models/by/me", "/etc/hostname"])
@pytest.mark.parametrize("setting", ["OMNI_MODEL", "OMNI_EMBEDDING_MODEL", "OMNI_DRAFT_MODEL"])
def test_a_missing_model_is_refused_at_the_start(environment: dict[str, str], setting: str, name: str) -> None:
    assert refused(environment | {setting: name}).startswith(f"configuration: {setting}={name} cannot be loaded: ")
    assert not Path(environment["OMNI_DATA_DIR"]).exists()


@pytest.mark.parametrize("setting", ["OMNI_MODEL", "OMNI_EMBEDDING_MODEL"])
def test_a_folder_without_weights_is_refused_at_the_start(
    tmp_path: Path, environment: dict[str, str], setting: str
) -> None:
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    sentence = refused(environment | {setting: str(folder)})
    assert sentence.startswith(f"configuration: {setting}={folder} cannot be loaded: there are no weights")
    assert not Path(environment["OMNI_DATA_DIR"]).exists()


def test_a_worker_by_itself_refuses_it_too(environment: dict[str, str]) -> None:
    """As under systemd. It refuses before it waits for Redis."""
    worker = [
        sys.executable,
        "-m",
        "common.process.supervise",
        "worker",
        "--watch",
        "--",
        sys.executable,
        "-m",
        "worker.main",
    ]
    assert "OMNI_MODEL=/nope cannot be loaded" in refused(environment | {"OMNI_MODEL": "/nope"}, *worker)


@pytest.mark.parametrize("setting", ["OMNI_PORT", "OMNI_DASHBOARD_PORT"])
def test_a_port_in_use_is_refused_before_anything_starts(environment: dict[str, str], setting: str) -> None:
    with socket.create_server(("127.0.0.1", int(environment[setting]))):
        assert f"{setting}={environment[setting]} cannot be used: Address already in use" in refused(environment)


def test_the_dashboard_by_itself_gives_up_on_a_port_in_use(environment: dict[str, str]) -> None:
    line = next(line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("dashboard:"))
    words = line.removeprefix("dashboard: exec ").replace(".venv/bin/python", sys.executable).split()
    with socket.create_server(("127.0.0.1", int(environment["OMNI_DASHBOARD_PORT"]))):
        assert "OMNI_DASHBOARD_PORT" in refused(environment, *words)


def test_one_port_for_both_is_refused(environment: dict[str, str]) -> None:
    port = environment["OMNI_PORT"]
    sentence = refused(environment | {"OMNI_DASHBOARD_PORT": port})
    assert sentence == f"configuration: OMNI_PORT and OMNI_DASHBOARD_PORT are both {port}; change one of them."


def test_one_port_at_two_addresses_is_allowed(environment: dict[str, str]) -> None:
    port = int(environment["OMNI_PORT"])
    check(
        read_settings({"OMNI_HOST": "127.0.0.2", "OMNI_PORT": str(port), "OMNI_DASHBOARD_PORT": str(port)}),
        ["api", "dashboard"],
    )


def test_a_process_that_is_not_in_the_procfile_is_refused(environment: dict[str, str]) -> None:
    assert refused(environment, *START, "apj").startswith(
        "configuration: apj is not a process of the Procfile; did you"
    )


@pytest.mark.parametrize("name", ["start", "redis", "api", "worker", "embedder", "dashboard"])
def test_a_malformed_redis_url_is_refused_by_every_process(environment: dict[str, str], name: str) -> None:
    """By the start, and by each process as under systemd; without a further warning."""
    command = START if name == "start" else [sys.executable, "-m", *RunningService.command(name)]
    sentence = refused(environment | {"REDIS_URL": "http://x"}, *command)
    assert sentence.startswith("configuration: REDIS_URL is not a Redis address; write redis://")


@pytest.mark.skipif(has_driver(), reason="there may be a device")
def test_a_device_that_is_not_there_is_refused_before_anything_starts(environment: dict[str, str]) -> None:
    assert refused(environment | {"OMNI_DEVICE": "cuda:1"}).startswith("configuration: OMNI_DEVICE=cuda:1: ")


def test_an_unwritable_data_folder_is_refused_before_anything_starts(environment: dict[str, str]) -> None:
    assert refused(environment | {"OMNI_DATA_DIR": "/proc/data"}).startswith("configuration: OMNI_DATA_DIR=/proc/data ")


@pytest.mark.parametrize("command", [START, [sys.executable, "-m", "common.process.embedded"]], ids=["start", "redis"])
def test_a_second_start_in_the_same_folder_changes_nothing(service: RunningService, command: list[str]) -> None:
    job = ask(service).json()["id"]
    connected = service.redis().info("server")["run_id"]
    environment = service.env | {"OMNI_PORT": str(free_port()), "OMNI_DASHBOARD_PORT": str(free_port())}
    sentence = refused(environment, *command)
    assert f"OMNI_DATA_DIR={service.folder} is in use by process {service.processes['redis'].pid}," in sentence
    assert service.redis().info("server")["run_id"] == connected
    assert ask(service).status_code == 200
    assert service.http().get(f"/v1/jobs/{job}").status_code == 200


def test_answers_survive_starts_and_ends_in_any_order_and_no_process_is_left(tmp_path: Path) -> None:
    """With honcho and our runner, SIGKILL and SIGTERM, and a refused second start each time."""
    (tmp_path / "data").mkdir()
    first = Started(tmp_path / "data", command=HONCHO)
    first.service.wait_healthy()
    job = ask(first.service).json()["id"]
    refused_beside(first)
    running = ask(first.service, background=True, max_tokens=3000, ignore_eos=True).json()["id"]
    wait_until(lambda: first.get(f"/v1/jobs/{running}").json()["state"] == "running", what="the job to run")
    end_all(first, signal.SIGKILL)

    second = Started(tmp_path / "data", "redis", "api").wait_live()
    assert second.get(f"/v1/jobs/{job}").status_code == 200
    assert second.get(f"/v1/jobs/{running}").json()["state"] == "queued", "its worker gave it back"
    assert second.service.redis().get("omni:crashes:deepseek-v3.2") is None, "and was not blamed"
    refused_beside(second)
    end_all(second, signal.SIGTERM)

    third = Started(tmp_path / "data", "redis", "api").wait_live()
    owner = owner_of(third)
    assert owner is not None
    owner.kill()
    owner.wait(10)
    wait_until(lambda: owner_of(third) not in (None, owner), 60, "Valkey's owner to be started again")
    wait_until(lambda: third.get(f"/v1/jobs/{job}").status_code == 200, 60, "Valkey with its data")
    end_all(third, signal.SIGKILL)

    fourth = Started(tmp_path / "data").wait_live()
    assert fourth.get(f"/v1/jobs/{job}").status_code == 200
    wait_until(lambda: fourth.get(f"/v1/jobs/{running}").json()["state"] == "finished", 90, "the job to go on")
    end_all(fourth, signal.SIGKILL)


def refused_beside(first: Started) -> None:
    second = Started(first.service.folder)
    assert second.process.wait(60) == 2, second.log()
    named = first.process.pid if first.command == START else ""  # honcho says nothing of itself
    assert f"is in use by process {named}" in second.log() and second.log().count("\n") == 1
    assert first.get("/v1/jobs").status_code == 200


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A copy of the repository with a .env of its own."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("api", "cli", "common", "worker"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "Procfile", "omni", "omni.py", "requirements.txt"):
        shutil.copy2(ROOT / name, copy)
    (copy / "demo").symlink_to(ROOT / "demo")
    (copy / ".venv").symlink_to(sys.prefix)
    yield copy


@pytest.mark.parametrize(
    "command",
    [["make", "--old-file=.venv/.run", "run"], ["./omni", "serve", "redis", "api", "--port", "{port}"]],
    ids=["make run", "omni serve"],
)
def test_the_environment_wins_over_the_env_file(checkout: Path, command: list[str]) -> None:
    """OMNI_PORT=8147 before a command wins; settings that only the file has hold too."""
    service = RunningService(checkout)
    in_file = free_port()
    (checkout / ".env").write_text(f"OMNI_PORT={in_file}\nOMNI_API_KEYS=sk-from-file\nOMNI_DATA_DIR=wrong\n")
    words = [word.format(port=service.port) for word in command]
    environment = service.env | {"OMNI_DATA_DIR": "right"}
    if "--port" in words:
        del environment["OMNI_PORT"]
    process = subprocess.Popen(words, cwd=checkout, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        service.key = "sk-from-file"
        wait_until(lambda: is_answered(service), 60)
        assert (checkout / "right" / "valkey.sock").exists() and not (checkout / "wrong").exists()
        with socket.socket() as caller:
            assert caller.connect_ex(("127.0.0.1", in_file)) != 0
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        process.wait(20)


def is_answered(service: RunningService) -> bool:
    try:
        return service.http().get("/v1/jobs").status_code == 200
    except httpx2.HTTPError:
        return False
