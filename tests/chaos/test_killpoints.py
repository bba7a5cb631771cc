"""A process is killed at each named place, one after the other, while three callers read."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.checker import Report, check
from tests.chaos.client import Api, Client, History, chat
from tests.chaos.harness import Harness, Options, running
from tests.chaos.killpoints import PLACES

STARTS = ("before the registration", "after the registration, before the reclaim", "after the reclaim")
RELEASES = ("before the release", "after the release")
NUM_TOKENS = 30


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the name of the place at which a process is to die."""
    return tmp_path_factory.mktemp("killed") / "place"


@pytest.fixture(scope="module")
def harness(named: Path) -> Iterator[Harness]:
    options = Options(step_s=0.01, through_proxy=False, environment={"CHAOS_KILL_FILE": str(named)})
    with running(options) as harness:
        yield harness


async def kill(harness: Harness, place: str) -> Report:
    """What three callers saw, and a fourth who cancels where that leads to the place."""
    api = Api(harness.port)
    histories = [History(hash((place, number)) % 2**40, NUM_TOKENS, "stream") for number in range(3)]
    clients = [Client(api, history, body=chat(history.seed, NUM_TOKENS)) for history in histories]
    reading = asyncio.gather(*(client.stream(background=True) for client in clients))
    if place in RELEASES + STARTS or "cancel" in place:
        while not all(history.frames for history in histories):
            await asyncio.sleep(0.02)
    if place in RELEASES:
        harness.workers[0].worker().terminate()
    elif place in STARTS:
        harness.kill_worker()  # the next one dies there
    elif "cancel" in place:
        extra = History(histories[0].seed + 1, 100_000, "cancel")
        histories.append(extra)
        await Client(api, extra, body=chat(extra.seed, extra.num_tokens)).cancel(2)
    await asyncio.wait_for(reading, 60)
    return check(histories, harness.redis, harness.queue)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("place", PLACES)
def test_killed(place: str, harness: Harness, named: Path) -> None:
    named.write_text(place)
    report = asyncio.run(kill(harness, place))
    assert not named.exists(), "nobody came by this place"
    assert report.is_clean, str(report)
