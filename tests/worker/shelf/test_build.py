"""The shelf of a service, of its settings and of its table."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.settings import DEMO_MODEL, Settings, read_settings
from common.shelf.table import TableModel
from tests.worker.conftest import ModelFolder
from tests.worker.shelf.stand_ins import StandInKeep
from worker.engine.interface import AnyEngine
from worker.shelf import build
from worker.shelf.build import SMALL_KV, guessed_needs, needs_of, shelf_of, tell_pins
from worker.shelf.place import DeviceNeeds, Place
from worker.shelf.shelf import ShelfLimits
from worker.unloaded.cards import cold_card

pytestmark = pytest.mark.usefixtures("surveys_ended")


@pytest.fixture
def settings(tmp_path: Path, model_folder: ModelFolder) -> Settings:
    table = tmp_path / "models.toml"
    models = f'[[model]]\nid = "demo"\nmodel = "demo"\n[[model]]\nid = "tiny"\nmodel = "{model_folder()}"\npin = true\n'
    table.write_text(models)
    return read_settings({"OMNI_MODELS": str(table), "OMNI_MAX_LOADED_MODELS": "1", "OMNI_WARM_MEMORY": "1GB"})


@pytest.fixture(autouse=True)
def searched_again() -> Iterator[None]:
    yield
    gc.unfreeze()


def no_engine(*_: object) -> AnyEngine:
    raise MemoryError


def test_the_shelf_has_the_table_s_models_in_its_order(settings: Settings) -> None:
    keep = StandInKeep()
    keep.kept["weights:tiny"] = 123
    cards = {model.queue: cold_card(model.settings_over(settings.model)) for model in settings.models}
    shelf = shelf_of(settings, cards, keep, lambda model: f"weights:{model.queue}", no_engine, lambda: None)
    report = shelf.report("w", {})
    assert [(entry.queue, entry.status, entry.is_pinned) for entry in report.entries] == [
        ("demo", "cold", False),
        ("tiny", "warm", True),
    ]
    assert (report.max_loaded, report.warm_capacity_bytes) == (1, 2**30)
    assert 0 < report.capacity_bytes


def test_guesses_are_replaced_once_the_first_model_may_be_served(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SURVEY_AFTER_S", 0.0)
    cards = {model.queue: cold_card(model.settings_over(settings.model)) for model in settings.models}
    shelf = shelf_of(settings, cards, StandInKeep(), lambda model: model.queue, no_engine, lambda: None)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    for place in shelf.places:
        assert place.size == needs_of(place.model, settings, cards[place.queue].max_model_len)
        assert place.size.kv_least > guessed_needs(place.model).kv_least


def test_more_pinned_models_than_may_be_loaded_are_told_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    places = [
        Place(TableModel((name,), f"/models/{name}", is_pinned=True), DeviceNeeds(1, 0, 0)) for name in ("tiny", "smol")
    ]
    tell_pins(places, ShelfLimits(2, 30.0))
    tell_pins(places, ShelfLimits(None, 30.0))
    assert caplog.messages == []
    tell_pins(places, ShelfLimits(1, 30.0))
    assert caplog.messages == ["OMNI_MAX_LOADED_MODELS=1 has no place for all pinned models: tiny, smol"]


def test_a_model_is_as_large_as_its_files_until_their_headers_are_read(settings: Settings) -> None:
    demo = settings.models[0]
    guess = guessed_needs(demo)
    assert guess.weights == sum(path.stat().st_size for path in DEMO_MODEL.glob("*.safetensors"))
    needs = needs_of(demo, settings, max_model_len=1024)
    assert 0.5 < needs.weights / guess.weights < 4
    assert 0 < needs.kv_least <= SMALL_KV
    assert needs.kv_least < needs.kv_most
