"""Each mechanism of durability has a scenario, which passes with it and fails without it."""

from collections.abc import Callable

import pytest
from redis import Redis

from tests.chaos.harness import Options, running
from tests.chaos.later_scenarios import LATER_CONTROLS
from tests.chaos.memory_scenarios import MEMORY_CONTROLS
from tests.chaos.mutations import API, EMBEDDED, SCRIPTS, WORKER, broken
from tests.chaos.scenarios import CONTROLS as LIFE_CONTROLS
from tests.chaos.scenarios import Stage
from tests.chaos.shelf_scenarios import SHELF_CONTROLS
from tests.chaos.tier_scenarios import TIER_CONTROLS

CONTROLS = LIFE_CONTROLS | MEMORY_CONTROLS | TIER_CONTROLS | LATER_CONTROLS | SHELF_CONTROLS

SCENARIOS = {scenario.__name__: scenario for scenario in CONTROLS.values()}
HARMLESS = {"no_published_entries"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenario_passes(name: str, redis: "Redis") -> None:
    SCENARIOS[name](Stage(redis))


@pytest.mark.parametrize(("mutation", "scenario"), CONTROLS.items(), ids=CONTROLS)
def test_the_scenario_fails_without_its_mechanism(
    mutation: str, scenario: Callable[[Stage], None], redis: "Redis"
) -> None:
    with broken(mutation):
        try:
            scenario(Stage(redis))
        except (AssertionError, pytest.fail.Exception):
            return
    pytest.fail(f"{mutation} went unnoticed by {scenario.__name__}")


@pytest.mark.parametrize("mutations", [(), ("no_lock",)], ids=["as things are", "no_lock"])
def test_a_second_start_in_the_same_folder_is_refused_or_noticed(mutations: tuple[str, ...]) -> None:
    """The fault `start_again`, with and without the lock."""
    with running(Options(num_apis=0, num_workers=0, through_proxy=False, mutations=mutations), wait=False) as harness:
        harness.redis.set("kept", "yes")
        assert bool(harness.start_again()) == bool(mutations)
        assert harness.redis.get("kept") == b"yes"


def test_every_mutation_has_its_scenario() -> None:
    assert CONTROLS.keys() == (SCRIPTS.keys() | WORKER.keys() | API.keys() | EMBEDDED.keys()) - HARMLESS
