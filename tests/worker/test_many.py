"""The worker of a table of models."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from redis import Redis

from common.model.fault import FolderFault
from common.model.source import table_fault
from common.settings import DEMO_MODEL, Settings, SettingsError, read_settings
from common.wire_codec import encode_card
from worker.jobs.hang_watch import HangWatch
from worker.kept.keep import Keep
from worker.many import EngineOpener, cards_of, revisions_of, worker_of_table

pytestmark = pytest.mark.usefixtures("surveys_ended")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a table with the demo model and one that a test can break."""
    shutil.copytree(DEMO_MODEL, tmp_path / "odd")
    (tmp_path / "models.toml").write_text(
        '[[model]]\nid = "a"\nmodel = "demo"\n[[model]]\nid = "odd"\nmodel = "./odd"\n'
    )
    return read_settings({"OMNI_MODELS": str(tmp_path / "models.toml")})


def cut(folder: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def publish(redis: "Redis", settings: Settings) -> None:
    """As a worker does while all files are whole."""
    cards, faults = cards_of(settings, redis)
    assert not faults
    redis.mset({f"omni:card:{queue}": encode_card(card) for queue, card in cards.items()})


@pytest.mark.parametrize("damage", [cut, spoil_tokenizer, shutil.rmtree])
def test_a_model_whose_files_are_broken_is_left_out_with_the_reason(redis, settings, tmp_path, caplog, damage) -> None:
    damage(tmp_path / "odd")
    with caplog.at_level(logging.ERROR):
        cards, faults = cards_of(settings, redis)
    assert list(cards) == ["a"] and list(faults) == ["odd"]
    assert faults["odd"].endswith("Correct it, then restart the worker.")
    assert table_fault(settings.models[1]) in faults["odd"]
    assert [record.message for record in caplog.records] == [f"odd is not served: {faults['odd']}"]


@pytest.mark.parametrize("damage", [cut, spoil_tokenizer, shutil.rmtree])
def test_a_model_that_was_served_before_keeps_its_queue_while_its_files_are_broken(
    redis, settings, tmp_path, damage
) -> None:
    publish(redis, settings)
    damage(tmp_path / "odd")
    watch = HangWatch(os.open(os.devnull, os.O_WRONLY))
    worker = worker_of_table(settings, redis, watch, Keep.none(), "")
    assert worker.models["a"].fault == "" and "Correct it, then run omni models load odd." in worker.models["odd"].fault
    entries = {entry.queue: entry for entry in worker.swaps.shelf.report("w", {}).entries}
    assert (entries["odd"].status, entries["odd"].may_retry) == ("failed", False)
    assert (entries["odd"].fault, entries["a"].status) == (worker.models["odd"].fault, "cold")


def test_a_table_of_broken_models_only_ends_the_worker(redis, settings, tmp_path) -> None:
    lonely = settings.model_copy(update={"models": settings.models[1:]})
    shutil.rmtree(tmp_path / "odd")
    with pytest.raises((SettingsError, SystemExit)):
        cards_of(lonely, redis)


def test_a_folder_that_vanishes_is_told_as_such(settings, tmp_path) -> None:
    shutil.rmtree(tmp_path / "odd")
    opener = EngineOpener(settings, HangWatch(os.open(os.devnull, os.O_WRONLY)), Keep.none())
    with pytest.raises(FolderFault, match="odd cannot be loaded: there is no such folder"):
        opener.open(settings.models[1], lambda what, share: None, None)


def test_an_adapter_without_files_stops_no_start(tmp_path) -> None:
    assert revisions_of({"x": str(tmp_path), "y": str(tmp_path / "none")}) == {}
