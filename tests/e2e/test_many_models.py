"""Several models behind one port, of which one is loaded at a time: answers are paused and go on in their responses."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from common.redis.metrics import read
from common.settings import DEMO_MODEL
from tests.service import RunningService

pytestmark = pytest.mark.timeout(300)  # models take turns of a second, and a swap takes longer on a busy machine

LONG = 800  # tokens: about a second
TABLE = """
[[model]]
ids = ["first", "default"]
model = "demo"
dtype = "float32"

[[model]]
id = "second"
model = "demo"
dtype = "float32"

[[model]]
id = "copy"
model = "./copy"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("many")
    (folder / "models.toml").write_text(TABLE)
    shutil.copytree(DEMO_MODEL, folder / "copy")
    settings = {"OMNI_MODELS": str(folder / "models.toml"), "OMNI_MAX_LOADED_MODELS": "1", "OMNI_MAX_SWAP_WAIT": "1"}
    running = RunningService(folder, settings)
    del running.env["OMNI_MODEL"]
    with running:
        yield running.start()


class Asking:
    """One streamed response, read in a thread."""

    def __init__(self, service: RunningService, model: str, number: int, max_tokens: int) -> None:
        self.has_begun = Event()
        self.text = ""
        self._stream = service.openai().chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"Tell me about number {number}."}],
            max_tokens=max_tokens,
            temperature=1.0,
            seed=number,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for chunk in self._stream:
            if chunk.choices:
                self.text += chunk.choices[0].delta.content or ""
                self.has_begun.set()

    def whole(self) -> str:
        self._thread.join(120)
        assert not self._thread.is_alive() and self.text
        return self.text


def kill_worker(service: RunningService) -> None:
    worker = service.worker()
    worker.kill()
    worker.wait(10)


def test_answers_that_are_paused_for_another_model_are_those_of_an_undisturbed_one(service: RunningService) -> None:
    alone = [Asking(service, "first", number, LONG).whole() for number in range(2)]
    long = [Asking(service, "first", number, LONG) for number in range(2)]
    assert all(asking.has_begun.wait(30) for asking in long)
    short = [Asking(service, "second", number, 20) for number in range(3)]
    assert all(asking.whole() for asking in short)
    assert [asking.whole() for asking in long] == alone
    counted = read(service.redis(), "first")
    assert counted["resumed_jobs"] >= 2 and counted["model_swaps|waiting"] >= 1


def test_a_worker_that_is_killed_while_a_model_is_swapped_out_loses_nothing(service: RunningService) -> None:
    alone = [Asking(service, model, 7, LONG).whole() for model in ("first", "second")]
    both = [Asking(service, model, 7, LONG) for model in ("first", "second")]
    assert both[0].has_begun.wait(30)
    kill_worker(service)
    assert both[1].has_begun.wait(30)
    kill_worker(service)
    assert [asking.whole() for asking in both] == alone


def test_an_unknown_model_is_not_found_and_all_others_are_served(service: RunningService) -> None:
    with service.http() as http:
        body = {"model": "third", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
        assert http.post("/v1/chat/completions", json=body).status_code == 404
        for model in ("second", "first", "default"):
            answer = http.post("/v1/chat/completions", json=body | {"model": model})
            assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 3


def test_a_folder_that_is_away_when_the_worker_starts_again_stops_no_other_model(service: RunningService) -> None:
    folder = Path(service.env["OMNI_MODELS"]).with_name("copy")
    with service.http() as http:

        def ask(model: str) -> tuple[int, str]:
            body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
            answer = http.post("/v1/chat/completions", json=body)
            return answer.status_code, answer.text

        assert ask("copy")[0] == 200 and ask("first")[0] == 200  # so that it is not loaded
        folder.rename(folder.with_name("away"))
        kill_worker(service)
        assert ask("first")[0] == 200 and ask("second")[0] == 200
        status, text = ask("copy")
        assert status == 500 and "model_load_failed" in text and "there is no such folder" in text
        folder.with_name("away").rename(folder)
        assert http.post("/v1/models/copy/load?wait=30").status_code == 200
        assert ask("copy")[0] == 200
