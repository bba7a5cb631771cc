"""Models that fit one at a time: forced swaps and kills lose, double and change nothing. `bench.shelf` goes longer."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.harness import wait_until
from tests.chaos.shelf_load import Ask, Callers, plan
from tests.chaos.shelf_run import Outcome, Trouble, run, settings_of
from tests.chaos.shelf_service import KEYS, TableService, save_small_models, undisturbed
from tests.chaos.shelf_verdict import judge

SECONDS = 10.0
Planned = tuple[list[Ask], dict[int, str]]
MAX_SWAP_WAIT_S = 5.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return save_small_models(tmp_path_factory.mktemp("models"), ("ant", "bee", "cat", "dog"))


@pytest.fixture(scope="module")
def planned(models: Mapping[str, Path]) -> Planned:
    return undisturbed(models, plan(list(models), 60, SECONDS, longest=160))


def half(planned: Planned) -> Planned:
    return planned[0][::2], planned[1]


def tried(folder: Path, models: Mapping[str, Path], planned: Planned, trouble: Trouble, **more: str) -> Outcome:
    """The planned requests to these models, within the seconds of the trouble."""
    asks, texts = planned
    pace = trouble.seconds / SECONDS
    asks = [replace(ask, at_s=pace * ask.at_s) for ask in asks if ask.model in models]
    breaks = more.pop("breaks", "")
    settings = settings_of(1, MAX_SWAP_WAIT_S) | more
    outcome = run(folder, models, asks, texts, trouble, settings, breaks=breaks, patience_s=60)
    print("\n".join(f"{name}: {value}" for name, value in outcome.rows()))
    return outcome


@pytest.mark.timeout(240)
def test_swaps_and_kills_lose_double_and_change_nothing(
    models: Mapping[str, Path], planned: Planned, tmp_path: Path
) -> None:
    trouble = Trouble(num_kills=2, num_others=2, swap_every_s=1.5, seconds=SECONDS)
    outcome = tried(tmp_path / "run", models, planned, trouble)
    assert outcome.verdict.all == []
    assert outcome.watch.num_swaps >= 5
    assert outcome.faults.total() == 4
    assert outcome.orders["load"] >= 4 and set(outcome.orders) <= {"load", "unload"}


@pytest.mark.timeout(240)
def test_pausing_without_the_log_is_noticed(models: Mapping[str, Path], planned: Planned, tmp_path: Path) -> None:
    """The control: answers that lose their log at a swap begin again, and that turns the verdict red."""
    trouble = Trouble(swap_every_s=1.0, seconds=5.0)
    outcome = tried(tmp_path / "run", models, half(planned), trouble, breaks="drop_the_log_on_giving_back")
    assert not outcome.verdict.is_clean


@pytest.mark.timeout(240)
def test_two_models_that_fit_together_never_leave(models: Mapping[str, Path], planned: Planned, tmp_path: Path) -> None:
    two = {name: models[name] for name in ("ant", "bee")}
    outcome = tried(tmp_path / "run", two, planned, Trouble(seconds=4.0), OMNI_MAX_LOADED_MODELS="")
    assert outcome.verdict.all == []
    loaded = [names for _, names in outcome.watch.loaded]
    assert loaded[-1] == set(two) and loaded.count(loaded[-1]) == 1


@pytest.mark.timeout(180)
def test_a_model_without_memory_leaves_the_old_one_serving_and_says_so(
    models: Mapping[str, Path], tmp_path: Path
) -> None:
    three = [replace(ask, model="ant", kind="chat", at_s=0, max_tokens=400) for ask in plan(["ant"], 3, 1)]
    asks, texts = undisturbed(models, three)
    service = TableService(tmp_path, models, settings_of(1, 1.0), {"CHAOS_NO_MEMORY_FOR": "dog"})
    try:
        service.start()
        callers = Callers(service.url, KEYS)
        with ThreadPoolExecutor() as pool:
            answers = pool.submit(asyncio.run, callers.send(asks, 90))
            assert ask_once(service, "dog", background=True) == 202
            answers.result()
        assert judge(callers.answers, texts).all == []
        with service.admin() as http:
            wait_until(lambda: http.get("/v1/models/dog").json()["status"].get("failed"), 30)
            assert "memory" in http.get("/v1/models/dog").json()["status"]["reason"]
        assert ask_once(service, "ant") == 200
        assert ask_once(service, "bee") == 200
    finally:
        service.stop()


def ask_once(service: TableService, model: str, *, background: bool = False) -> int:
    body = {"model": model, "prompt": "one", "max_tokens": 2, "background": background}
    with service.http() as http:
        answer = http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {KEYS[0]}"}, timeout=60)
    return answer.status_code
