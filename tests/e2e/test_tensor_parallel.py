"""A service whose model is shared by two ranks: the same text as of one, and a rank's death is the worker's."""

import os
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.models import save_model
from tests.service import RunningService

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    model = save_model(tmp_path_factory.mktemp("tiny"), "llama")
    settings = {"OMNI_MODEL": str(model), "OMNI_MODEL_NAME": "tiny", "OMNI_TENSOR_PARALLEL": "2"}
    running = RunningService(tmp_path_factory.mktemp("shared"), settings)
    try:
        yield running.start()
    finally:
        running.stop()


def stream(service: RunningService, at: int, then: Callable[[], None]) -> str:
    """The text of one greedy answer; at its chunk number `at` something happens."""
    text = ""
    answer = service.openai().completions.create(
        model="tiny", prompt="the quick brown fox", max_tokens=200, temperature=0, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    for number, chunk in enumerate(answer):
        text += chunk.choices[0].text if chunk.choices else ""
        if number == at:
            then()
    return text


def test_a_stream_outlives_a_rank(shared: RunningService) -> None:
    whole = stream(shared, -1, lambda: None)
    killed: list[int] = []

    def kill_a_follower() -> None:
        [worker] = psutil.Process(shared.processes["worker"].pid).children()
        [follower] = [child for child in worker.children() if "worker.follower" in child.cmdline()]
        os.kill(follower.pid, signal.SIGKILL)
        killed.append(follower.pid)

    assert stream(shared, 5, kill_a_follower) == whole
    assert killed and "rank 1 ended" in shared.log()


def test_no_rank_outlives_the_service(shared: RunningService) -> None:
    [worker] = psutil.Process(shared.processes["worker"].pid).children()
    ranks = [worker, *worker.children()]
    assert len(ranks) == 2
    shared.processes["worker"].terminate()
    assert not psutil.wait_procs(ranks, timeout=20)[1]
    assert "started again" not in shared.log().rpartition("serves tiny")[2]
