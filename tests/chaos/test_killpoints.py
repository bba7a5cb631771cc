"""A process is killed at each named place. All places run at once, each with a queue and a worker of its own."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.checker import Report, check
from tests.chaos.client import Api, Client, History, chat
from tests.chaos.harness import Harness, Options, free_ports, running, wait_until
from tests.chaos.killpoints import PLACES

API_PLACES = [place for place, (module, *_) in PLACES.items() if module.startswith("common.redis.store")]
RELEASES = ("before the release", "after the release")
NUM_TOKENS = 30


@dataclass
class Outcome:
    report: Report
    was_killed: bool


def model_of(place: str) -> str:
    return place.replace(" ", "-").replace(",", "")


class Lane:
    """One place with its queue, worker and three callers."""

    def __init__(self, harness: Harness, place: str, folder: Path) -> None:
        self.harness = harness
        self.place = place
        self.model = model_of(place)
        self.marker = folder / self.model
        self.port = harness.port
        deadly = {"CHAOS_KILL_FILE": str(self.marker), "CHAOS_KILL": place}
        if place in API_PLACES:
            [self.port] = free_ports(1)
            harness.start_api(OMNI_PORT=str(self.port), **deadly)
            deadly = {}
        self.worker = harness.start_worker(OMNI_MODEL_NAME=self.model, **deadly)

    def is_ready(self) -> bool:
        return bool(self.harness.redis.exists(f"omni:card:{self.model}"))

    async def run(self) -> Outcome:
        seeds = [hash((self.place, number)) % 2**40 for number in range(3)]
        histories = [History(seed, NUM_TOKENS, "stream") for seed in seeds]
        api = Api(self.port)
        clients = [Client(api, history, body=chat(history.seed, NUM_TOKENS, model=self.model)) for history in histories]
        reading = asyncio.gather(*(client.stream(background=True) for client in clients))
        if self.place in RELEASES or "cancel" in self.place:
            while not all(history.frames for history in histories):
                await asyncio.sleep(0.02)
        if self.place in RELEASES:
            self.worker.worker().terminate()
        elif "cancel" in self.place:
            extra = History(seeds[0] + 1, 100_000, "cancel")
            histories.append(extra)
            leaver = Client(api, extra, body=chat(extra.seed, extra.num_tokens, model=self.model))
            await leaver.cancel(2)
        await asyncio.wait_for(reading, 60)
        return Outcome(check(histories, self.harness.redis, self.model), self.marker.exists())


async def run_all(lanes: list[Lane]) -> dict[str, Outcome]:
    outcomes = await asyncio.gather(*(lane.run() for lane in lanes))
    return {lane.place: outcome for lane, outcome in zip(lanes, outcomes, strict=True)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    folder = tmp_path_factory.mktemp("killed")
    with running(Options(num_workers=0, step_s=0.01, through_proxy=False)) as harness:
        lanes = [Lane(harness, place, folder) for place in PLACES]
        wait_until(lambda: all(lane.is_ready() for lane in lanes), 60, "all workers")
        wait_until(lambda: harness.num_listening() > len(API_PLACES), 60, "all APIs")
        yield asyncio.run(run_all(lanes))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("place", PLACES)
def test_killed(place: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[place]
    assert outcome.was_killed, "nobody came by this place"
    assert outcome.report.is_clean, str(outcome.report)
