"""The lock files follow the lists: .ci/locks.py on our own files, and on a registry of four packages made here."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cli.serve import ROOT

WHEELS = [
    ("flask", "1.0", ""),
    ("flask", "2.0", "werkzeug>=1"),
    ("werkzeug", "1.5", ""),
    ("torch", "1.0", "nvidia-cuda==1.0; sys_platform == 'linux'"),
    ("torch", "2.0", ""),
    ("nvidia_cuda", "1.0", ""),
    ("pytest", "1.0", ""),
]
LISTS = {
    "requirements.txt": "# the API\nflask==1.0  # routes\ntorch==1.0  # held: 2.0 is slower\n",
    "requirements-dev.txt": "pytest==1.0\n",
    "requirements-traces.txt": "# nothing\n",
    "requirements-docs.txt": "# nothing\n",
}


def make_wheel(folder: Path, name: str, version: str, needs: str) -> None:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {needs}\n" if needs else ""
    )
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    uv = {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(folder / "wheels"), "UV_CACHE_DIR": str(folder / "cache")}
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "cpu")}
    arguments = [sys.executable, str(ROOT / ".ci" / "locks.py"), command, str(folder)]
    return subprocess.run(arguments, env=os.environ | uv | pip, capture_output=True, text=True, timeout=60)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with lists, their locks, and the registry's wheels."""
    for registry in ("wheels", "cpu"):
        (tmp_path / registry).mkdir()
    make_wheel(tmp_path / "cpu", "torch", "1.0+cpu", "")
    for name, version, needs in WHEELS:
        make_wheel(tmp_path / "wheels", name, version, needs)
    for listed, text in LISTS.items():
        (tmp_path / listed).write_text(text)
    done = run("relock", tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_our_locks_hold_what_our_lists_name() -> None:
    done = run("check", ROOT)
    assert done.returncode == 0, done.stderr


def test_our_locks_name_no_host_and_no_folder() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        assert "://" not in lock.read_text() and "/tmp" not in lock.read_text(), lock


def test_a_pin_that_its_lock_lacks_is_named(project: Path) -> None:
    with (project / "requirements-dev.txt").open("a") as listed:
        listed.write("hypothesis==6.0\n")
    done = run("check", project)
    assert done.returncode == 1
    assert "requirements-dev.txt lists hypothesis 6.0, but its lock does not; run `make relock`" in done.stderr


def test_a_package_that_no_list_names_any_more_is_named(project: Path) -> None:
    (project / "requirements-dev.txt").write_text("")
    assert "only the lock of requirements-dev.txt has pytest" in run("check", project).stderr


def test_a_package_without_a_hash_is_named(project: Path) -> None:
    lock = project / "requirements-dev.lock"
    lock.write_text("\n".join(line for line in lock.read_text().splitlines() if "--hash" not in line))
    assert "pytest has no hash" in run("check", project).stderr


def test_relock_moves_nothing_that_still_fits(project: Path) -> None:
    before = {path.name: path.read_text() for path in project.glob("*.lock")}
    assert run("relock", project).returncode == 0
    assert before == {path.name: path.read_text() for path in project.glob("*.lock")}


def test_move_takes_the_newest_releases_but_those_held(project: Path) -> None:
    done = run("move", project)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "flask 1.0 -> 2.0\n"
    assert (project / "requirements.txt").read_text() == LISTS["requirements.txt"].replace("flask==1.0", "flask==2.0")
    assert "werkzeug==1.5 \\\n" in (project / "requirements.lock").read_text()


def test_torch_has_a_lock_of_its_own_with_cuda_and_another_without(project: Path) -> None:
    assert "torch" not in (project / "requirements.lock").read_text()
    torch_lock = (project / "requirements-torch.lock").read_text()
    assert "nvidia-cuda==1.0 ; sys_platform == 'linux'" in torch_lock and "torch==1.0 \\\n" in torch_lock
    wheel = project / "cpu" / "torch-1.0+cpu-py3-none-any.whl"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert f"torch==1.0+cpu \\\n    --hash=sha256:{digest}\n" in (project / "requirements-cpu.lock").read_text()


def test_without_a_cpu_build_pip_refuses_the_cpu_lock(project: Path) -> None:
    """make then installs the build that PyPI has."""
    (project / "cpu" / "torch-1.0+cpu-py3-none-any.whl").unlink()
    (project / "requirements-cpu.lock").unlink()
    assert "has no hash and is not used" in run("relock", project).stderr
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--dry-run"]
    assert subprocess.run([*pip, "-r", "requirements-cpu.lock"], cwd=project, timeout=60).returncode != 0
