"""omni models without a service: the table's file is edited, listed and looked into."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.model_rows import status_text
from cli.models import models
from common.settings import DEMO_MODEL, read_settings
from common.shelf.table import read_table
from tests.models import save_encoder
from tests.service import ROOT
from tests.worker.fake_hub import FakeHub

TWO = '[[model]]\nids = ["small", "default"]\nmodel = "demo"\nkeep_alive = "5m"\n'
TWO += '\n# never leaves\n[[model]]\nid = "b"\nmodel = "demo"\npin = true\n'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(TWO)
    monkeypatch.setenv("OMNI_MODELS", str(path))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def run(path: Path):
    port = str(free_port())

    def run(*arguments: str) -> Result:
        settings = lambda: read_settings({"OMNI_MODELS": os.environ["OMNI_MODELS"], "OMNI_PORT": port})  # noqa: E731
        return CliRunner().invoke(models, arguments, obj={"url": None, "key": None, "settings": settings})

    return run


def test_a_model_is_added_with_its_keys(run, path: Path) -> None:
    (path.parent / "lora").mkdir()
    given = ["--id", "c", "--id", "d", "--quantize", "int8", "--max-model-len", "64", "--adapter", "sql=lora", "--pin"]
    found = run("add", str(DEMO_MODEL), *given, "--keep-alive", "1h30m", "--draft", "demo")
    assert found.exit_code == 0 and found.stdout == f"added c to {path}\n"
    assert found.stderr == "The service reads the table when it starts.\n"
    assert path.read_text().startswith(TWO)
    model = read_table(path)[-1]
    assert (model.ids, model.source, model.quantize, model.max_model_len) == (("c", "d"), str(DEMO_MODEL), "int8", 64)
    assert (model.adapters, model.is_pinned) == ((("sql", str(path.parent / "lora")),), True)
    assert (model.keep_alive_s, model.draft) == (5400.0, str(DEMO_MODEL))


def test_without_an_id_a_model_is_called_as_its_folder(run, path: Path) -> None:
    assert run("add", str(DEMO_MODEL)).stdout.startswith("added model to ")
    assert run("add", "owner/name").stderr.startswith(
        "It is downloaded when it is first loaded, or now by: omni models pull owner/name\n"
    )
    assert [model.source for model in read_table(path)][2:] == [str(DEMO_MODEL), "owner/name"]


def test_the_first_model_makes_the_table(run, path: Path) -> None:
    path.unlink()
    assert run("add", "demo", "--id", "a").exit_code == 0
    assert path.read_text() == '[[model]]\nid = "a"\nmodel = "demo"\n'


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("demo", "--id", "b"), "'b' is the id of [[model]] b twice; give each another name.\n"),
        (("./none", "--id", "c"), "there is no such folder, and a Hugging Face id looks like owner/name.\n"),
        (("demo", "--id", "c", "--quantize", "int2"), "is refused: it must be empty, int8, int4 or fp8.\n"),
        (("demo", "--id", "c", "--adapter", "sql=/none"), "sql=/none is not a folder on the worker's machine.\n"),
    ],
)
def test_what_cannot_be_loaded_is_not_added(arguments: tuple[str, ...], sentence: str, run, path: Path) -> None:
    found = run("add", *arguments)
    assert found.exit_code == 1 and found.stderr.startswith("Error: ") and found.stderr.endswith(sentence)
    assert path.read_text() == TWO


def test_a_model_is_removed_by_any_of_its_ids(run, path: Path) -> None:
    assert run("remove", "default").stdout == "removed small, default\n"
    assert path.read_text() == TWO[TWO.index("# never") :]
    assert "is the only model" in run("remove", "b").stderr


def test_the_file_is_listed_where_no_service_answers(run) -> None:
    found = run("list")
    assert found.stderr == "The service does not answer; this is the table's file.\n"
    names, *rows = [line.split() for line in found.stdout.splitlines()]
    assert names[:4] == ["id", "status", "task", "size"]
    assert [row[0] for row in rows] == ["small", "default", "b"] and rows[2][-1] == "pinned"
    items = json.loads(run("list", "--json").stdout)
    assert [item["id"] for item in items] == ["small", "default", "b"] and items[0]["keep_alive"] == 300


def test_a_model_is_shown_from_its_files(run, path: Path) -> None:
    encoder = save_encoder(path.parent / "bert")
    assert run("add", str(encoder)).exit_code == 0
    shown = json.loads(run("show", "bert", "--json").stdout)
    assert (shown["task"], shown["architecture"], shown["max_model_len"]) == ("embed", "bert", 64)
    assert shown["weights"] > 0 and "fault" not in shown
    assert "there is no model 'x'; there are small, default, b, bert." in run("show", "x").stderr
    assert "there is no model 'smal'; did you mean small?" in run("show", "smal").stderr


def test_a_status_says_which_pinned_models_hold_the_place() -> None:
    held = {"state": "cold", "why": "its place is held by pinned models: a"}
    assert status_text({"status": held}) == "cold: its place is held by pinned models: a"


def test_a_pin_is_written_into_the_table(run, path: Path) -> None:
    assert run("pin", "small").stdout == "small is pinned when the service starts\n"
    assert read_table(path)[0].is_pinned
    assert run("unpin", "small").stdout == "small is not pinned when the service starts\n"
    assert path.read_text() == TWO


def test_orders_need_a_service(run) -> None:
    for command in ("load", "unload"):
        assert "does not answer" in run(command, "b").stderr
    assert "it must be seconds, such as 300" in run("load", "b", "--keep-alive", "soon").stderr


def test_without_omni_models_it_says_how_to_begin(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_MODELS", "")
    for command in (("add", "demo"), ("remove", "a"), ("list",)):
        assert run(*command).stderr.splitlines()[-1] == (
            "Error: OMNI_MODELS is not set. To serve several models, write OMNI_MODELS=models.toml into .env, then run "
            "omni models add MODEL for each."
        )


def test_a_hub_model_is_pulled_by_its_id_in_the_table(run, path: Path) -> None:
    hub = FakeHub("omni/small", {"config.json": b"{}", "model.safetensors": b"weights", "model.bin": b"no"})
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(path.parent), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", "from cli.main import main; main()", "models", "pull"]

    def pull(name: str) -> subprocess.CompletedProcess[str]:
        environment["PYTHONPATH"] = str(ROOT)
        return subprocess.run([*command, name], env=environment, cwd=path.parent, capture_output=True, text=True)

    try:
        assert run("add", "omni/small", "--id", "c").exit_code == 0
        found, refused = pull("c"), pull("omni/none")
    finally:
        hub.close()
    assert found.stdout.startswith("omni/small: 0.0 MB of weights in "), found.stderr
    assert {*hub.asked} == {"config.json", "model.safetensors"}
    assert refused.stderr.splitlines()[-1].startswith("Error: omni/none cannot be downloaded: ")
    assert "nothing to download" in run("pull", "b").stdout
