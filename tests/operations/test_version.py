"""common/__init__.py holds the version; everything else reads it there, and the changelog agrees."""

import re
import subprocess
import sys
import tomllib

from api.app import create_app
from cli.serve import ROOT
from common import __version__
from common.settings import read_settings
from tests.service import RunningService


def test_it_is_a_semantic_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_project_reads_it_from_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "common.__version__"}


def test_omni_states_it() -> None:
    done = subprocess.run([sys.executable, "-m", "omni", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"Protocol OMNI {__version__}\n"


def test_openapi_states_it() -> None:
    app = create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock"}))
    assert app.test_client().get("/openapi.json").get_json()["info"]["version"] == __version__


def test_health_states_it(service: RunningService) -> None:
    assert service.http().get("/health").json()["version"] == __version__


def test_the_newest_heading_of_the_changelog_is_unreleased_or_the_version() -> None:
    headings = re.findall(r"^## ([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", __version__)
    assert next(heading for heading in headings if heading != "Unreleased") == __version__
