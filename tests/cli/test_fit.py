"""omni fit: the worker's report as a table, and its refusals."""

import subprocess

import pytest
from click.testing import CliRunner

from cli.fit import billions, fit, gib, row, show_models
from common.settings import read_settings

PLAN = {
    "quantize": "int4", "dtype": "bfloat16", "weights": 5 * 2**30, "workspace": 2**30, "kv_per_token": 131072,
    "kv_room": 2**30, "context": 8192, "num_tokens": 8192, "streams": 1, "short_streams": 2, "missing": 0, "why": "",
}  # fmt: skip


@pytest.fixture
def run():
    """omni fit, which needs no service."""
    return lambda *arguments: CliRunner().invoke(fit, arguments, obj={"settings": lambda: read_settings({})})


def test_a_model_is_reported_with_what_fits(run):
    found = run("demo", "--memory", "24gb")
    assert found.exit_code == 0, found.output
    first, second, machine, _, *table = found.stdout.splitlines()
    assert (
        first.startswith("llama: 4.2 M parameters (linear layers 3.7 M") and "not packed; sequences of 2,048" in second
    )
    assert machine.startswith("a GPU with 24 GiB: 23.50 GiB of 24.00 GiB free")
    assert [line.split()[0] for line in table] == ["OMNI_QUANTIZE", "(none)", "int8", "int4", "fp8"]
    assert all(line.rstrip().endswith("fits") for line in table[1:])


def test_a_refusal_is_the_workers_sentence(run, monkeypatch):
    ended = subprocess.CompletedProcess([], 2, "", "a warning\nconfiguration: nothing: there is no such folder.\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    found = run("nothing")
    assert found.exit_code == 1 and found.stderr == "Error: nothing: there is no such folder.\n"
    assert run("--memory", "much").exit_code == 2


def test_a_row_says_what_fits_or_how_much_is_missing():
    assert row(PLAN)[2:] == ("5.00 GiB", "1.00 GiB", "128.0 KiB", "1.00 GiB", "8,192", "1 / 2", "fits")
    lacking = PLAN | {"missing": 3 * 2**29, "why": "the weights", "quantize": ""}
    assert row(lacking)[0] == "(none)" and row(lacking)[-1] == "does not fit: needs 1.50 GiB more for the weights"


def test_sizes_are_written_for_people():
    assert (gib(2**20), gib(3 * 2**30)) == ("1.0 MiB", "3.00 GiB")
    assert (billions(7_000_000_000), billions(4_180_736)) == ("7.00 B", "4.2 M")


MODEL = {"task": "generate", "weights": 5 * 2**30, "workspace": 2**30, "kv_per_token": 2**20, "max_model_len": 1024}
GPU = {"name": "a GPU", "total": 24 * 2**30, "used": 0, "is_gpu": True}


@pytest.mark.parametrize(
    ("num_models", "max_loaded", "together"),
    [(3, None, "all fit at once"), (4, None, "any 3 at once, while the others wait"), (3, 1, "any 1 at once, while")],
)
def test_the_models_of_a_table_are_told_together(num_models, max_loaded, together, capsys):
    models = [MODEL | {"id": f"m{number}"} for number in range(num_models)]
    assert show_models({"machine": GPU, "share": 0.9, "models": models}, max_loaded)
    *rows, _, last = capsys.readouterr().out.splitlines()
    assert rows[1].split() == "m0 generate 5.00 GiB 1.00 GiB 1,024.0 KiB 1,024 fits".split()
    assert f"a GPU: 21.60 GiB for models, which take {7 * num_models:.2f} GiB: {together}" in last


def test_a_model_that_does_not_fit_and_one_with_a_fault_are_told(capsys):
    models = [MODEL | {"id": "large", "weights": 30 * 2**30}, {"id": "gone", "fault": "there is no such folder."}]
    assert not show_models({"machine": GPU, "share": 0.9, "models": models}, None)
    out = capsys.readouterr().out
    assert "does not fit: needs 10.40 GiB more" in out and "there is no such folder." in out
