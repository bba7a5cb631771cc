"""omni fit: the worker's report as a table, and its refusals."""

import json
import subprocess
from functools import partial

import pytest
from click.testing import CliRunner

from cli.fit import billions, fit, gib, row, show_models, show_sparse, sparse_verdict
from common.settings import DEMO_MODEL, read_settings
from worker.fit.__main__ import report

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


def test_a_misspelled_id_of_the_table_is_told_and_a_path_is_the_callers(monkeypatch, tmp_path):
    table = tmp_path / "models.toml"
    table.write_text('[[model]]\nid = "stories"\nmodel = "demo"\n')
    asked = []
    monkeypatch.setattr("cli.fit.worker_report", lambda module, source, *_: asked.append(source) or {})
    monkeypatch.setattr("cli.fit.show", lambda found: None)
    monkeypatch.setenv("CALLED_FROM", str(tmp_path))
    (tmp_path / "own").mkdir()
    run = partial(CliRunner().invoke, fit, obj={"settings": lambda: read_settings({"OMNI_MODELS": str(table)})})
    refused = run(["storys"])
    assert refused.exit_code == 1 and refused.stderr.endswith("has no model 'storys'; did you mean stories?\n")
    for name in ("stories", "own", "owner/storys"):
        run([name])
    assert asked == [str(DEMO_MODEL), str(tmp_path / "own"), "owner/storys"]


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
    assert show_models({"machine": GPU, "share": 0.9, "models": models}, max_loaded, as_json=False)
    *rows, _, last = capsys.readouterr().out.splitlines()
    assert rows[1].split() == "m0 generate 5.00 GiB 1.00 GiB 1,024.0 KiB 1,024 fits".split()
    assert f"a GPU: 21.60 GiB for models, which take {7 * num_models:.2f} GiB: {together}" in last


def test_a_model_that_does_not_fit_and_one_with_a_fault_are_told(capsys):
    models = [MODEL | {"id": "large", "weights": 30 * 2**30}, {"id": "gone", "fault": "there is no such folder."}]
    assert not show_models({"machine": GPU, "share": 0.9, "models": models}, None, as_json=False)
    out = capsys.readouterr().out
    assert "does not fit: needs 10.40 GiB more" in out and "there is no such folder." in out


SPARSE_PLAN = {
    "quantize": "", "experts": 600 * 2**30, "parts": {"attention": 2**30, "indexer": 3 * 2**30}, "context": 32768,
    "keys_and_values": 2**31, "workspace": 2**30, "tokens_per_s": [[8.25, 20.0]],
    "needs": {"device": 7 * 2**30, "host": 602 * 2**30, "disk": 0},
    "missing": {"device": 0, "host": 90 * 2**30, "disk": 2**30},
}  # fmt: skip
SPARSE = {"rates": {"host": [2e11], "device": 2e12, "whose": "measured"}, "ram": None, "plans": [SPARSE_PLAN]}


def test_experts_in_memory_are_told_apart_with_what_is_missing(capsys):
    show_sparse(SPARSE, is_gpu=True)
    told = capsys.readouterr()
    first, keys, _, _, line = told.out.strip().splitlines()
    assert first.endswith("with OMNI_EXPERTS=ram, beside what is on the GPU: indexer 3.00 GiB, attention 1.00 GiB,")
    assert keys == "keys and values of 32,768 tokens 2.00 GiB, workspace 1.00 GiB"
    assert line.split()[:8] == "(none) 600.00 GiB 7.00 GiB 602.00 GiB 8.2".split()
    assert line.rstrip().endswith("does not fit: 90.00 GiB of memory, 1.00 GiB of disk missing")
    assert "at 200 GB/s" in told.out and "8.2 / 20.0" in line
    assert "this machine's cores read of its memory now; the GPU's own memory at 2,000 GB/s" in told.err
    assert sparse_verdict({"device": 0, "host": 0, "disk": 0}) == "fits"


@pytest.fixture
def reports_are_made_here(monkeypatch):
    """As the command's own process makes them: it would import torch again."""

    def worker_report(module, source, *options):
        given = dict(zip(options[::2], map(int, options[1::2]), strict=True))
        sizes = [given.get(name) for name in ("--memory", "--ram", "--bandwidth")]
        return json.loads(json.dumps(report(source, sizes[0], read_settings({}), *sizes[1:])))

    monkeypatch.setattr("cli.fit.worker_report", worker_report)


@pytest.mark.usefixtures("reports_are_made_here")
def test_a_model_is_told_by_its_name_before_it_is_fetched(run):
    found = run("deepseek-v3.2", "--memory", "120gb", "--ram", "768gb")
    assert found.stdout.startswith("deepseek_v32: 671.88 B parameters (experts 653.91 B"), found.output
    rows = [line for line in found.stdout.splitlines() if line.startswith(("(none)", "int8", "int4"))]
    assert len(rows) == 4 and "609.15 GiB" in rows[1]
    small = run("deepseek-v3.2", "--memory", "120gb", "--ram", "512gb")
    assert small.exit_code == 0 and "99.15 GiB of memory missing" in small.stdout  # int4 fits
    none = run("deepseek-v3.2", "--memory", "120gb", "--ram", "256gb")
    assert none.exit_code == 1 and "126.62 GiB of memory missing" in none.stdout


@pytest.mark.usefixtures("reports_are_made_here")
def test_another_machine_s_disk_and_bandwidth_are_not_taken_from_this_one(run, monkeypatch):
    monkeypatch.setattr("worker.fit.sparse.room_on_disk", lambda _: 0)
    monkeypatch.setattr("worker.fit.bandwidth.read_rate", lambda _: 1e9)
    other = run("deepseek-v3.2", "--memory", "120gb", "--ram", "768gb")
    assert other.exit_code == 0 and "1,022.71 GiB" in other.stdout and "of disk" not in other.stdout
    assert "Routed experts in 768.00 GiB of memory, " in other.stdout
    assert all(f"at {rate} GB/s" in other.stdout for rate in (100, 300, 600)) and "supposed" in other.stderr
    told = run("deepseek-v3.2", "--memory", "120gb", "--ram", "768gb", "--bandwidth", "655")
    assert "at 655 GB/s" in told.stdout and "at 300 GB/s" not in told.stdout and "as --bandwidth says" in told.stderr
    here = run("deepseek-v3.2")
    assert here.exit_code == 1 and "of disk missing" in here.stdout and "at 1 GB/s" in here.stdout
    assert "this machine's cores read" in here.stderr and "Routed experts in this machine's memory" in here.stdout
    assert run("deepseek-v3.2", "--bandwidth", "0").exit_code == 2


@pytest.mark.usefixtures("reports_are_made_here")
@pytest.mark.parametrize(
    ("name", "first", "experts"),  # billions of parameters as the releases tell; GiB of experts as released and in int4
    [
        ("kimi-k2-thinking", "deepseek_v3: 1,026.41 B parameters", ("590.62 GiB", "590.62 GiB")),
        ("glm-5", "glm_moe_dsa: 743.91 B parameters", ("675.16 GiB", "421.88 GiB")),
        ("glm-4.5-air", "glm4_moe: 106.85 B parameters", ("185.62 GiB", "58.01 GiB")),
        ("gpt-oss-120b", "gpt_oss: 116.83 B parameters", ("56.73 GiB", "66.74 GiB")),
    ],
)
def test_what_the_experts_of_known_models_take_in_host_memory(run, name, first, experts):
    found = run(name, "--memory", "80gb", "--ram", "1024gb")
    assert found.stdout.startswith(first), found.output
    _, table = found.stdout.split("Routed experts in 1,024.00 GiB of memory")
    rows = {words[0]: line for line in table.splitlines() if (words := line.split())}
    for form, size in zip(("(none)", "int4"), experts, strict=True):
        assert size in rows[form] and " of memory" not in rows[form]
