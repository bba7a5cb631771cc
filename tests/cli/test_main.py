"""How the command line is called, and its refusals."""

import json
import re
import subprocess
import sys

import click
import pytest

from cli.main import main
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


def omni(*arguments, **environment):
    """As a shell runs it, with these variables only."""
    words = [sys.executable, "-m", "omni", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={"PATH": "", **environment})


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_the_address_of_an_openai_client_is_taken_from_the_environment(service, ending):
    shown = omni("status", "--json", OPENAI_BASE_URL=f"{service.url}{ending}", OPENAI_API_KEY=service.key)
    assert shown.returncode == 0 and json.loads(shown.stdout)["url"] == service.url


def test_a_refusal_says_that_address_and_key_are_the_environments(service):
    shown = omni("ps", OPENAI_BASE_URL=f"{service.url}/v1", OPENAI_API_KEY="sk-of-another")
    assert shown.returncode == 1 and "401" in shown.stderr
    assert "OPENAI_BASE_URL and OPENAI_API_KEY of the environment are used" in shown.stderr
    assert "sk-of-another" not in shown.stderr
    shown = omni("ps", OPENAI_BASE_URL="nonsense")
    assert shown.returncode == 2 and "Error: OPENAI_BASE_URL=nonsense is no address" in shown.stderr


def test_a_key_for_another_server_is_not_sent_to_this_machines_service(service):
    """OPENAI_API_KEY alone is OpenAI's."""
    shown = omni("ps", OPENAI_API_KEY="sk-of-openai", OMNI_PORT=str(service.port))
    assert shown.returncode == 0, shown.stderr


def test_an_unknown_command_or_setting_has_a_suggestion():
    assert "Did you mean 'jobs'?" in omni("jbos").stderr
    assert "did you mean OMNI_MODEL?" in omni("jobs", OMNI_MODLE="x").stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://", "http://x:y"])
def test_a_url_that_is_no_address_is_one_sentence(url):
    shown = subprocess.run(
        [sys.executable, "-m", "omni", "--url", url, "jobs"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 2
    assert shown.stderr.endswith(f"Error: --url {url} is no address; write it as http://127.0.0.1:8000\n")


def leaves(group=main, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


def test_no_line_of_a_help_is_cut_off():
    """A list of commands in 80 columns."""
    groups = [main, *(group for group in main.commands.values() if isinstance(group, click.Group))]
    for group in groups:
        room = 80 - 6 - max(map(len, group.commands))
        for name, command in group.commands.items():
            assert not command.get_short_help_str(room).endswith("..."), name


def test_every_command_has_a_form_for_programs():
    """All but the one that becomes the service, whose log is JSON where it is not read on a terminal."""
    without = [path for path, command in leaves() if not any("--json" in option.opts for option in command.params)]
    assert without == [("serve",)]


def test_the_document_of_the_command_line_has_every_command_and_option():
    document = (ROOT / "docs" / "cli.md").read_text()
    missing = [
        (path, option)
        for path, command in leaves()
        for option in ("", *(found for item in command.params for found in item.opts if found.startswith("--")))
        if not re.search(rf"omni {' '.join(path)}\b[^\n]*{re.escape(option)}", document)
    ]
    assert not missing


def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(service):
    shown = omni("ps", "--json", OMNI_PORT=str(service.port), http_proxy="http://127.0.0.1:9")
    assert shown.returncode == 0, shown.stderr


def test_the_load_generator_shows_a_row_for_each_level(omni_of_service):
    shown = omni_of_service("bench", "-c", "1,2", "--requests", "2", "--words", "3", "--tokens", "4", "--json")
    rows = json.loads(shown.stdout)
    assert [(row["load"], row["requests"], row["errors"]) for row in rows] == [("1 at once", 2, 0), ("2 at once", 2, 0)]
    assert all(row["model"] == "deepseek-v3.2" and row["tokens_s"] > 0 for row in rows)
    shown = omni_of_service("bench", "--rate", "20", "--requests", "2", "--tokens", "2")
    assert shown.exit_code == 0 and shown.stdout.splitlines()[1].startswith("20 a second")
    assert omni_of_service("bench", "-c", "0").exit_code == 2


def test_the_load_generator_needs_no_package_of_the_tests():
    """`make run` installs those of requirements.txt only."""
    given = (ROOT / "requirements-dev.txt").read_text().splitlines()
    names = [re.split("[=\\[]", line)[0].replace("-", "_") for line in given if re.match(r"\w", line)]
    assert "aiohttp" in names
    code = f"import sys; sys.modules |= dict.fromkeys({names}); import cli.bench"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
