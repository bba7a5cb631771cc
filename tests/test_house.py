"""The rules of the house: who may import whom, and who is the one to know what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("api", "common", "worker")


def imports_of(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def files_of(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("api", {"torch", "transformers", "worker"}),
        ("common", {"torch", "transformers", "api", "worker", "flask", "rq"}),
        ("worker", {"api", "flask", "gevent", "gunicorn"}),
    ],
)
def test_the_arrows_between_packages_hold(package: str, forbidden: set[str]) -> None:
    for path in files_of(package):
        assert not imports_of(path) & forbidden, path


def test_rq_is_known_in_two_places_and_the_dashboard() -> None:
    knowers = {str(path.relative_to(ROOT)) for path in files_of(*PACKAGES) if "rq" in imports_of(path)}
    assert knowers <= {
        "api/jobs/generation.py",
        "api/operator/dashboard.py",
        "api/operator/rq_dashboard_seams.py",
        "worker/jobs/omni_worker.py",
    }


def test_only_settings_read_the_environment() -> None:
    for path in files_of(*PACKAGES):
        if path.name != "settings.py":
            reads = [line for line in path.read_text().splitlines() if "os.environ[" in line or "os.getenv" in line]
            assert not reads, (path, reads)


@pytest.mark.parametrize(
    "module",
    ["api.app", "common.redis.store", "common.process.supervise", "common.process.embedded", "common.process.start"],
)
def test_the_web_process_never_loads_torch(module: str) -> None:
    code = f"import sys, {module}; assert not {{'torch', 'transformers', 'numpy', 'worker'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_module_holds_changing_state() -> None:
    for path in files_of(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Global), path
