"""Weights outlive a killed worker: its successor maps them, and open answers go on with the same text."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

from tests.chaos.harness import wait_until
from tests.service import RunningService, is_keeper

pytestmark = pytest.mark.timeout(120)

NUM_STREAMS = 4
NUM_TOKENS = 700
KEPT = "its weights were kept"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("kept")).start() as service:
        yield service


def read(service: RunningService, number: int, has_begun: Event) -> str:
    """The text of one stream. `has_begun` is set in its first part."""
    sampled = {"seed": number, "temperature": 0.8, "max_tokens": NUM_TOKENS, "extra_body": {"ignore_eos": True}}
    prompt = f"Story number {number}, please."
    chunks = service.openai().completions.create(model="omni-demo", prompt=prompt, stream=True, **sampled)
    text = ""
    for at, chunk in enumerate(chunks):
        text += chunk.choices[0].text if chunk.choices else ""
        if at == 20:
            has_begun.set()
    return text


def texts(service: RunningService, then: Callable[[], object] = lambda: None) -> dict[int, str]:
    """What the streams say; `then` is called when all of them have begun."""
    found: dict[int, str] = {}
    begun = {number: Event() for number in range(NUM_STREAMS)}

    def run(number: int) -> None:
        found[number] = read(service, number, begun[number])

    threads = [Thread(target=run, args=(number,)) for number in range(NUM_STREAMS)]
    for thread in threads:
        thread.start()
    for event in begun.values():
        assert event.wait(60)
    then()
    for thread in threads:
        thread.join()
    return found


def keeper_of(service: RunningService) -> psutil.Process:
    children = psutil.Process(service.processes["worker"].pid).children()
    return next(child for child in children if is_keeper(child))


def test_a_killed_worker_s_successor_has_its_weights_and_goes_on(running: RunningService) -> None:
    expected = texts(running)
    assert running.log().count(KEPT) == 0
    assert texts(running, lambda: running.worker().kill()) == expected
    assert running.log().count(KEPT) == 1


def test_the_worker_gives_its_weights_to_the_next_keeper(running: RunningService) -> None:
    kept, keeper = running.log().count(KEPT), keeper_of(running)
    keeper.kill()
    wait_until(lambda: not keeper.is_running() and "the keeper ended" in running.log(), 20)
    wait_until(lambda: holds_memory(running), 20)
    texts(running, lambda: running.worker().kill())
    assert running.log().count(KEPT) == kept + 1


def holds_memory(service: RunningService) -> bool:
    try:
        return any("memfd:omni-weights" in str(file) for file in links_of(keeper_of(service)))
    except (StopIteration, psutil.NoSuchProcess, OSError):
        return False


def links_of(process: psutil.Process) -> Iterator[str]:
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        yield str(link.readlink())
