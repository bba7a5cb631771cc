"""omni doctor: findings, and advice for each."""

import json
import os
import socket
import subprocess
from types import SimpleNamespace

import pytest
from redis.exceptions import NoPermissionError

from cli import doctor, machine_findings
from common.process.data_folder import take
from common.settings import read_settings
from tests.cli.test_client import saying


def test_a_running_service_has_no_bad_finding(omni, monkeypatch):
    monkeypatch.setattr(doctor, "package_finding", lambda: doctor.Finding("good", "packages"))
    checked = omni("doctor")
    assert checked.exit_code == 0, checked.output
    assert "Redis" in checked.stdout and "the service is running there" in checked.stdout


@pytest.mark.parametrize(
    ("check", "changes", "todo"),
    [
        (doctor.model_finding, {"OMNI_MODEL": "./nowhere"}, "OMNI_MODEL"),
        (doctor.key_finding, {"OMNI_HOST": "0.0.0.0"}, "OMNI_API_KEYS"),
        (doctor.redis_finding, {"REDIS_URL": "unix:///nowhere/at/all.sock"}, "REDIS_URL"),
        (doctor.redis_access_finding, {"REDIS_URL": "redis://10.0.0.5:6379"}, "REDIS_URL"),
    ],
)
def test_a_bad_finding_names_the_setting_to_change(check, changes, todo):
    finding = check(read_settings(changes))
    assert finding.level == "bad" and todo in finding.todo


@pytest.mark.parametrize(("folder", "tool", "level"), [("/nowhere", None, "warn"), (None, "/usr/bin/cc", "good")])
def test_a_gpu_without_what_compiles_its_kernels_is_slow(folder, tool, level, tmp_path, monkeypatch):
    (tmp_path / "Python.h").touch()
    for name, answer in (
        ("is_available", True), ("mem_get_info", (70 * 2**30, 80 * 2**30)), ("get_device_name", "NVIDIA H100"),
    ):  # fmt: skip
        monkeypatch.setattr(f"torch.cuda.{name}", lambda answer=answer: answer)
    monkeypatch.setattr(machine_findings.sysconfig, "get_path", lambda name: folder or str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: tool)
    finding = machine_findings.gpu_finding()
    assert finding.level == level and "NVIDIA H100, 70 of 80 GiB free" in finding.what
    assert ("no C compiler and no Python.h" in finding.what and "gcc" in finding.todo) is (level == "warn")


@pytest.mark.parametrize(
    "files", [["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], ["m.gguf"]]
)
def test_the_size_of_a_models_weights_is_that_of_its_files(files, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "check_generating", lambda settings: None)
    for name in files:
        (tmp_path / name).write_bytes(bytes(6 * 2**20 // len(files)))
    for model in {tmp_path, tmp_path / files[0]} if files == ["m.gguf"] else {tmp_path}:
        finding = doctor.model_finding(read_settings({"OMNI_MODEL": str(model)}))
        assert finding.what.endswith(", 6 MiB of weights")


def test_each_model_of_a_table_has_a_finding(tmp_path):
    table = tmp_path / "models.toml"
    table.write_text('[[model]]\nid = "a"\nmodel = "demo"\n[[model]]\nid = "b"\nmodel = "./none"\n')
    settings = read_settings({"OMNI_MODELS": str(table), "OMNI_DATA_DIR": str(tmp_path)})
    good, bad = [found for found in doctor.settings_findings(settings) if "model" in found.what][-2:]
    assert good.level == "good" and good.what.startswith("model a: ") and "MiB of weights" in good.what
    assert bad.level == "bad" and f"{table}, b: model={tmp_path}/none cannot be loaded" in bad.what


def test_keys_are_counted():
    settings = read_settings({"OMNI_HOST": "0.0.0.0", "OMNI_API_KEYS": "a,b", "OMNI_ADMIN_KEYS": "c"})
    assert doctor.key_finding(settings).what == "2 API keys, 1 admin key"


def test_a_port_of_another_program_is_bad(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = doctor.port_finding(read_settings({"OMNI_PORT": str(taken.getsockname()[1])}))
    assert finding.level == "bad" and "OMNI_PORT" in finding.todo


def test_a_folder_whose_owner_has_no_valkey_is_bad(tmp_path):
    fd = take(tmp_path)
    finding = doctor.folder_finding(read_settings({"OMNI_DATA_DIR": str(tmp_path), "REDIS_URL": ""}))
    os.close(fd)
    assert finding.level == "bad" and f"process {os.getpid()}" in finding.todo


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"OMNI_DATA_DIR": "/proc/data"}, "OMNI_DATA_DIR=/proc/data cannot be written"),
        ({"OMNI_DATA_DIR": "/etc/hostname"}, "OMNI_DATA_DIR=/etc/hostname is not a folder"),
        ({"OMNI_DATA_DIR": "/tmp"}, "OMNI_DATA_DIR=/tmp is open to other users of this machine (mode 1777)"),
    ],
)
def test_a_data_folder_that_a_start_would_refuse_is_bad(changes, said):
    if os.geteuid() == 0 and "cannot be written" in said:
        pytest.skip("everything can be written by root, by what access() says")
    finding = doctor.folder_finding(read_settings(changes))
    assert finding.level == "bad" and finding.what == said


def test_a_folder_that_is_not_there_yet_is_left_alone(tmp_path):
    finding = doctor.folder_finding(read_settings({"OMNI_DATA_DIR": str(tmp_path / "new")}))
    assert finding.level == "good" and not (tmp_path / "new").exists()


def test_another_start_in_the_folder_at_another_port_is_told(service):
    settings = read_settings({"OMNI_DATA_DIR": str(service.folder), "OMNI_PORT": "1"})
    finding = doctor.folder_finding(settings)
    assert finding.level == "warn" and "A second start needs another OMNI_DATA_DIR" in finding.todo


def test_the_dashboards_port_is_checked():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        finding = doctor.dashboard_finding(read_settings({"OMNI_DASHBOARD_PORT": port, "OMNI_PORT": "1"}))
    assert finding.level == "bad" and "OMNI_DASHBOARD_PORT" in finding.todo
    same = doctor.port_finding(read_settings({"OMNI_DASHBOARD_PORT": port, "OMNI_PORT": port}))
    assert same.level == "bad" and "both" in same.what


@pytest.mark.parametrize("setting", ["OMNI_EMBEDDING_MODEL", "OMNI_DRAFT_MODEL"])
def test_the_models_beside_the_model_are_checked(setting):
    finding = doctor.model_finding(read_settings({"OMNI_MODEL": "demo", setting: "./nowhere"}))
    assert finding.level == "bad" and f"{setting}=./nowhere cannot be loaded" in finding.what


def test_the_findings_as_json(omni):
    found = json.loads(omni("doctor", "--json").stdout)
    assert {"level", "what", "todo"} == found[0].keys()


def test_a_driver_that_hangs_or_fails_is_bad_and_ends_nothing(monkeypatch):
    def hang(*_, **__):
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(machine_findings.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", hang)
    finding = machine_findings.gpu_finding()
    assert finding.level == "bad" and "the driver hangs" in finding.what and "dmesg" in finding.todo

    def fail():
        raise RuntimeError("CUDA error: unknown error\nCUDA kernel errors might be ...")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", fail)
    finding = machine_findings.gpu_finding()
    assert finding.level == "bad" and "CUDA error: unknown error CUDA" in finding.what


def test_a_proxy_of_the_environment_does_not_hide_the_running_service(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    body = b'{"status": "alive"}'
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)) as (
        url,
        _,
    ):
        assert doctor.is_running(url)


def test_a_redis_user_without_info_is_answered(monkeypatch):
    def info():
        raise NoPermissionError("this user has no permissions to run the 'info' command")

    redis = SimpleNamespace(ping=lambda: True, info=info)
    monkeypatch.setattr(doctor, "connect", lambda *_, **__: redis)
    finding = doctor.redis_finding(read_settings({"REDIS_URL": "redis://:secret@host"}))
    assert finding.level == "warn" and finding.what.startswith("Redis answers")
