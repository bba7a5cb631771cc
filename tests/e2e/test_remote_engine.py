"""The whole service with a vLLM server behind it: a client's stream outlives that server, and the worker."""

import os
import signal
import time
from collections.abc import Iterator

import openai
import pytest

from tests.fake_vllm import FakeVllm
from tests.models import save_model
from tests.service import RunningService

pytestmark = pytest.mark.timeout(300)
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeVllm]:
    fake = FakeVllm(step_s=0.02)
    yield fake
    fake.die()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, backend: FakeVllm) -> Iterator[RunningService]:
    model = save_model(tmp_path_factory.mktemp("tiny"), "llama")
    for weights in model.glob("*.safetensors"):
        weights.unlink()
    settings = {"OMNI_MODEL": str(model), "OMNI_MODEL_NAME": "tiny", "OMNI_ENGINE": f"vllm+{backend.url}"}
    with RunningService(tmp_path_factory.mktemp("remote"), settings) as running:
        yield running.start()


def wait_for_health(service: RunningService, status: str) -> dict[str, object]:
    deadline = time.monotonic() + DEADLINE_S
    with service.http() as http:
        while (body := http.get("/health").json())["status"] != status:
            assert time.monotonic() < deadline, body
            time.sleep(0.05)
        return body


def test_a_stream_outlives_the_server_and_the_worker(served: RunningService, backend: FakeVllm) -> None:
    whole = served.stream(60, -1, lambda: None)
    assert len(whole) > 30

    def lose_the_server() -> None:
        backend.die()
        body = wait_for_health(served, "engine away")
        assert "engine behind the worker" in str(body["progress"])
        backend.revive()

    assert served.stream(60, 10, lose_the_server) == whole
    wait_for_health(served, "healthy")

    def kill_the_worker() -> None:
        worker = served.worker()
        os.kill(worker.pid, signal.SIGKILL)

    assert served.stream(60, 10, kill_the_worker) == whole


def test_a_client_that_disconnects_ends_the_answer_at_the_server(served: RunningService, backend: FakeVllm) -> None:
    wait_for_health(served, "healthy")
    answer = served.openai().completions.create(
        model="tiny", prompt="over the lazy dog", max_tokens=200, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(answer))
    answer.close()
    deadline = time.monotonic() + DEADLINE_S
    while backend.num_open:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_refusal_of_the_server_is_passed_on_with_its_message(served: RunningService, backend: FakeVllm) -> None:
    backend.faults.append(400)
    with pytest.raises(openai.BadRequestError, match="not today"):
        served.openai(max_retries=0).completions.create(model="tiny", prompt="fox", max_tokens=4)
