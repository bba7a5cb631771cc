"""omni models beside a running service, of whose three models one is loaded at a time."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.models import models
from common.settings import read_settings
from common.shelf.table import read_table
from tests.models import save_encoder, save_model
from tests.service import RunningService

TABLE = """
[[model]]
ids = ["first", "default"]
model = "demo"

[[model]]
id = "encoder"
model = "bert"
keep_alive = "1h"

[[model]]
id = "broken"
model = "llama"
"""
Omni = Callable[..., Result]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("models")
    save_encoder(folder / "bert")
    save_model(folder / "llama", "llama")
    (folder / "models.toml").write_text(TABLE)
    settings = {"OMNI_MODELS": str(folder / "models.toml"), "OMNI_MAX_LOADED_MODELS": "1"}
    with RunningService(folder, settings) as running:
        del running.env["OMNI_MODEL"]
        yield running.start()


@pytest.fixture
def omni(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> Omni:
    monkeypatch.setenv("OMNI_MODELS", service.env["OMNI_MODELS"])
    settings = read_settings({"OMNI_MODELS": service.env["OMNI_MODELS"], "OMNI_PORT": str(service.port)})
    given = {"url": None, "key": None, "settings": lambda: settings}
    return lambda *arguments: CliRunner().invoke(models, arguments, obj=given)


def listed(omni: Omni) -> dict[str, str]:
    """The state of each id."""
    found = omni("list", "--json")
    assert found.exit_code == 0, found.output
    return {item["id"]: item["status"]["state"] for item in json.loads(found.stdout)}


def test_models_are_loaded_and_unloaded_at_a_word(omni: Omni, service: RunningService) -> None:
    loaded = omni("load", "first")
    assert loaded.stdout == "first is loaded\n", loaded.output
    assert listed(omni)["first"] == listed(omni)["default"] == "loaded"
    loaded = omni("load", "encoder", "--keep-alive", "10m")
    assert loaded.stdout == "encoder is loaded\n", loaded.output
    states = listed(omni)
    assert states["encoder"] == "loaded" and states["first"] != "loaded"
    vector = service.openai().embeddings.create(model="encoder", input="a text").data[0].embedding
    assert len(vector) == 32
    assert omni("unload", "encoder").stdout == "encoder is unloaded\n"
    assert listed(omni)["encoder"] != "loaded"


def test_the_list_and_one_model_are_shown(omni: Omni) -> None:
    names, *rows = omni("list").stdout.splitlines()
    assert names.split()[:6] == ["id", "status", "task", "size", "context", "waiting"]
    assert {row.split()[0] for row in rows} == {"first", "default", "encoder", "broken"}
    shown = omni("show", "encoder").stdout
    assert "task           embed" in shown and "keep alive     3600 s" in shown, shown
    assert "There is no model 'x'; there are first, default, encoder, broken." in omni("show", "x").stderr


def test_a_pin_holds_at_once_and_after_a_restart(omni: Omni, service: RunningService) -> None:
    path = Path(service.env["OMNI_MODELS"])
    assert omni("pin", "first").stdout == "first is pinned\n"
    assert json.loads(omni("show", "first", "--json").stdout)["pinned"] and read_table(path)[0].is_pinned
    held = omni("pin", "encoder")
    assert held.stderr.splitlines()[-1] == "Error: encoder cannot be loaded: its place is held by pinned models: first"
    assert not read_table(path)[1].is_pinned
    assert omni("unpin", "first").stdout == "first is not pinned\n"
    assert not json.loads(omni("show", "first", "--json").stdout)["pinned"]
    assert path.read_text() == TABLE


def test_a_model_that_cannot_be_loaded_says_why(omni: Omni, service: RunningService) -> None:
    (service.folder / "llama" / "model.safetensors").write_bytes(b"")
    found = omni("load", "broken")
    assert found.exit_code == 1 and found.stderr.splitlines()[-1].startswith("Error: "), found.output
    assert "model.safetensors" in found.stderr or "weights" in found.stderr
    assert omni("load", "first").stdout == "first is loaded\n"


def test_a_change_of_the_table_needs_a_restart_and_says_so(omni: Omni, service: RunningService) -> None:
    assert omni("add", "demo", "--id", "new").stderr.endswith(
        "Restart the service to take this over; jobs that wait or run go on after that.\n"
    )
    assert "new" not in listed(omni)
    omni("remove", "new")
    assert Path(service.env["OMNI_MODELS"]).read_text().rstrip() == TABLE.rstrip()
