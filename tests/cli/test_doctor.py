"""omni doctor: findings, and advice for each."""

import os
import socket

import pytest

from cli import doctor
from common.process.data_folder import take
from common.settings import read_settings


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
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda name: folder or str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: tool)
    finding = doctor.gpu_finding()
    assert finding.level == level and "NVIDIA H100, 70 of 80 GiB free" in finding.what
    assert ("no C compiler and no Python.h" in finding.what and "gcc" in finding.todo) is (level == "warn")


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
