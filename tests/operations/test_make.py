"""The targets help, install and uninstall; hooks and CI run the same programs as make."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from cli.serve import ROOT
from common import __version__

INSTALLED = "--old-file=.venv/.run"  # the tests' own environment is there already


def make(*arguments: str, **env: str) -> str:
    command = ["make", "--no-print-directory", INSTALLED, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, check=True, capture_output=True, text=True).stdout


def test_help_lists_every_target_with_what_it_does() -> None:
    listed = set(re.findall(r"^make ([a-z]+) +\S", make("help"), re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None and listed == set(phony[1].split())


def test_omni_is_installed_runs_from_any_folder_and_is_removed(tmp_path: Path) -> None:
    said = make("install", f"PREFIX={tmp_path}")
    assert f"{tmp_path}/bin is not on the PATH yet" in said
    launcher, elsewhere = tmp_path / "bin" / "omni", tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run([launcher, "--version"], cwd=elsewhere, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"Protocol OMNI {__version__}\n"
    completions = [path for path in (tmp_path / "share").rglob("*omni*") if path.is_file()]
    assert len(completions) == 3 and all("OMNI_COMPLETE" in path.read_text() for path in completions)
    assert make("uninstall", f"PREFIX={tmp_path}") == f"removed {launcher}\n"
    assert not launcher.is_symlink() and not any(path.exists() for path in completions)


def test_a_program_of_another_checkout_is_not_removed(tmp_path: Path) -> None:
    launcher = tmp_path / "bin" / "omni"
    assert make("uninstall", f"PREFIX={tmp_path}").endswith("nothing is removed\n")
    launcher.parent.mkdir()
    launcher.symlink_to("/opt/protocol-omni/omni")
    assert make("uninstall", f"PREFIX={tmp_path}").endswith("nothing is removed\n") and launcher.is_symlink()


def test_a_prefix_on_the_path_needs_no_hint(tmp_path: Path) -> None:
    said = make("install", f"PREFIX={tmp_path}", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert "PATH" not in said


def test_destdir_is_put_before_the_prefix(tmp_path: Path) -> None:
    make("install", f"DESTDIR={tmp_path}", "PREFIX=/usr/local")
    assert (tmp_path / "usr" / "local" / "bin" / "omni").resolve() == ROOT / "omni"


def test_hooks_run_programs_of_our_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system" and hook["entry"].startswith(".venv/bin/"), hook


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["ci"]["steps"]
    assert steps[-1]["run"] == ".ci/run"
    assert [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make")][
        0
    ] == "make check"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()), ids=lambda path: path.stem)
def test_issue_forms_ask_for_something(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form.get("blank_issues_enabled") is False or {"name", "description", "body"} <= form.keys()
