"""Workers forked from a template: streams continue after each death of supervisor, template and worker."""

import asyncio
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.chaos.checker import check
from tests.chaos.client import Api, Client, History, chat
from tests.chaos.harness import Harness, Options, running, wait_until
from tests.service import RunningService

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def service_of_one_worker() -> Iterator[Harness]:
    with running(Options(step_s=0.02, through_proxy=False)) as harness:
        yield harness


def has_template(stage: Harness) -> bool:
    children = psutil.Process(stage.workers[0].popen.pid).children()
    return any(child.name() == "omni-template" and child.status() != psutil.STATUS_ZOMBIE for child in children)


@pytest.fixture
def stage(service_of_one_worker: Harness) -> Harness:
    """A stage whose supervisor has a template ready."""
    wait_until(lambda: has_template(service_of_one_worker), 60)
    return service_of_one_worker


def read_through(stage: Harness, seed: int, then: Callable[[], None]) -> Client:
    """Read one stream, call `then` in its middle, and check the answer."""

    async def run() -> Client:
        history = History(seed, 100, "stream")
        client = Client(Api(stage.port), history, body=chat(seed, 100))
        reading = asyncio.create_task(client.stream())
        while len(history.frames) < 10:
            await asyncio.sleep(0.01)
        then()
        await asyncio.wait_for(reading, 60)
        return client

    client = asyncio.run(run())
    report = check([client.history], stage.redis, "fake")
    assert report.is_clean, str(report)
    assert client.history.num_resumes == 0
    return client


def end(process: psutil.Process) -> None:
    process.kill()
    psutil.wait_procs([process], timeout=10)


def test_the_successor_of_a_killed_worker_is_forked_from_the_same_template(stage: Harness) -> None:
    worker, template = stage.workers[0].worker(), stage.workers[0].template()
    read_through(stage, 8_001, worker.kill)
    assert stage.workers[0].worker() != worker
    assert stage.workers[0].template() == template


def test_the_worker_outlives_its_template_which_is_restarted(stage: Harness) -> None:
    worker, template = stage.workers[0].worker(), stage.workers[0].template()
    client = read_through(stage, 8_002, template.kill)
    assert stage.job(client.history.id)["crashes"] == "0"
    assert stage.workers[0].worker() == worker
    wait_until(lambda: has_template(stage), 60)
    assert stage.workers[0].template() != template


def test_when_both_are_killed_both_are_restarted(stage: Harness) -> None:
    worker, template = stage.workers[0].worker(), stage.workers[0].template()

    def kill_both() -> None:
        end(template)
        end(worker)

    read_through(stage, 8_003, kill_both)
    assert stage.workers[0].worker() != worker


def test_template_and_worker_end_with_their_supervisor_and_jobs_return_without_a_counted_attempt(
    stage: Harness,
) -> None:
    processes = [stage.workers[0].worker(), stage.workers[0].template()]

    def kill_the_supervisor() -> None:
        stage.workers[0].send(signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert not alive
        stage.workers[0] = stage.start_worker()
        stage.workers.pop()

    client = read_through(stage, 8_004, kill_the_supervisor)
    assert stage.job(client.history.id)["crashes"] == "0"


def test_a_real_template_forks_with_one_thread(service: RunningService) -> None:
    """A lock that another thread holds at the fork stays locked in the child."""
    children = psutil.Process(service.processes["worker"].pid).children()
    assert [child.num_threads() for child in children if child.name() == "omni-template"] == [1]
