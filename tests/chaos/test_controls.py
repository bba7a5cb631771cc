"""Every mechanism of durability: its scenario passes as things are, and turns red when the mechanism is broken."""

from collections.abc import Callable

import pytest
from redis import Redis

from tests.chaos.memory_scenarios import MEMORY_CONTROLS
from tests.chaos.mutations import API, SCRIPTS, WORKER, broken
from tests.chaos.scenarios import CONTROLS as LIFE_CONTROLS
from tests.chaos.scenarios import Stage

CONTROLS = LIFE_CONTROLS | MEMORY_CONTROLS

SCENARIOS = {scenario.__name__: scenario for scenario in CONTROLS.values()}
HARMLESS = {"no_live_rows"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_as_things_are(name: str, redis: "Redis") -> None:
    SCENARIOS[name](Stage(redis))


@pytest.mark.parametrize(("mutation", "scenario"), CONTROLS.items(), ids=CONTROLS)
def test_broken_is_noticed(mutation: str, scenario: Callable[[Stage], None], redis: "Redis") -> None:
    with broken(mutation):
        try:
            scenario(Stage(redis))
        except (AssertionError, pytest.fail.Exception):
            return
    pytest.fail(f"{mutation} went unnoticed by {scenario.__name__}")


def test_every_mutation_has_its_scenario() -> None:
    assert CONTROLS.keys() == (SCRIPTS.keys() | WORKER.keys() | API.keys()) - HARMLESS
