"""How the command line is called, and its refusals."""

import subprocess
import sys

import pytest

from cli.serve import ROOT


@pytest.mark.parametrize("command", [["./omni"], [sys.executable, "-m", "omni"]])
def test_the_script_and_the_module_show_all_commands(command):
    if command == ["./omni"] and not (ROOT / ".venv/bin/python").exists():
        pytest.skip("there is no .venv here")
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for name in ("serve", "chat", "jobs", "cancel", "keys", "bench", "doctor"):
        assert name in shown.stdout


def test_a_bad_setting_is_one_sentence():
    shown = subprocess.run(
        [sys.executable, "-m", "omni", "jobs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"OMNI_PORT": "zero", "PATH": ""},
    )
    assert shown.returncode == 1 and "OMNI_PORT" in shown.stderr and "Traceback" not in shown.stderr
