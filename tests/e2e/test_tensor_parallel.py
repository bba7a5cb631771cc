"""A service whose model is shared by two ranks: the text of one rank, and a rank's death ends the worker."""

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.models import save_model
from tests.service import RunningService

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    model = save_model(tmp_path_factory.mktemp("tiny"), "llama")
    settings = {"OMNI_MODEL": str(model), "OMNI_MODEL_NAME": "tiny", "OMNI_TENSOR_PARALLEL": "2"}
    with RunningService(tmp_path_factory.mktemp("shared"), settings) as running:
        yield running.start()


def test_a_stream_outlives_a_rank(shared: RunningService) -> None:
    whole = shared.stream(200, -1, lambda: None)
    killed: list[int] = []

    def kill_a_follower() -> None:
        [worker] = psutil.Process(shared.processes["worker"].pid).children()
        [follower] = [child for child in worker.children() if "worker.follower" in child.cmdline()]
        os.kill(follower.pid, signal.SIGKILL)
        killed.append(follower.pid)

    assert shared.stream(200, 5, kill_a_follower) == whole
    assert killed and "rank 1 ended" in shared.log()


def test_no_rank_outlives_the_service(shared: RunningService) -> None:
    [worker] = psutil.Process(shared.processes["worker"].pid).children()
    ranks = [worker, *worker.children()]
    assert len(ranks) == 2
    shared.processes["worker"].terminate()
    assert not psutil.wait_procs(ranks, timeout=20)[1]
    assert "started again" not in shared.log().rpartition("serves tiny")[2]
