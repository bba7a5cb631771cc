"""Two small models that really come and go in one process."""

import gc
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.settings import DEMO_MODEL
from common.shelf.table import TableModel
from common.wire import Delta, GenerationRequest, SamplingParams
from tests.worker.conftest import ModelFolder, prompt_of
from worker.engine.interface import AnyEngine
from worker.kept.keep import Keep
from worker.models.kept.key import kept_name
from worker.models.loader import EngineConfig
from worker.opening import open_engine
from worker.progress import OnProgress
from worker.shelf.changes import Change, Leaving, LoadFailed, Opened
from worker.shelf.memory import MachineMemory, resident_bytes
from worker.shelf.opening import Opener, compute_with
from worker.shelf.place import DeviceNeeds, Place
from worker.shelf.shelf import Shelf, ShelfLimits
from worker.shelf.view import Decision, Running, ShelfView, Stay, Swap, Waiting
from worker.shelf.warm.models import WarmModels

MB = 10**6
FDS = Path("/proc/self/fd")
SMALL = EngineConfig(max_num_seqs=8, max_step_tokens=64, threads=1, device="cpu")
ONE_WAITS = Waiting(jobs=1, tier="default", oldest_s=1.0)


def lru(view: ShelfView) -> Decision:
    """Load what waits; the model that was loaded first leaves for it."""
    loaded = [model for model in view.models if model.is_loaded]
    wanted = [model for model in view.models if model.waiting.jobs and not model.is_loaded and model.can_load]
    if not wanted:
        return Stay("nothing waits")
    out = tuple(model.name for model in loaded)[: max(0, len(loaded) + 1 - view.max_loaded)]
    return Swap(wanted[0].name, out, "pause", "it waits", wanted[0].swap_in_s)


class TwoModels:
    """A shelf of the demo model and of a tiny one, driven as the worker's loop does."""

    def __init__(self, tiny: Path, max_loaded: int) -> None:
        self.woken = threading.Event()
        self.engines: dict[str, tuple[AnyEngine, int]] = {}
        self.faults: list[LoadFailed] = []
        self.out_of_memory = ""
        memory, needs = MachineMemory(), DeviceNeeds(40 * MB, 4 * MB, 40 * MB)
        models = TableModel(("demo",), str(DEMO_MODEL)), TableModel(("tiny",), str(tiny))
        self.keep = Keep.none()
        self.shelf = Shelf(
            [Place(model, needs, kept_name(model.source, SMALL) or "") for model in models],
            ShelfLimits(max_loaded, 30.0),
            memory,
            Opener(memory, 1, self.woken.set),
            self._open,
            WarmModels(self.keep, 400 * MB),
            lru,
        )

    def _open(self, model: TableModel, on_progress: OnProgress, kv_bytes: int | None) -> AnyEngine:
        config = replace(SMALL, kv_memory_bytes=min(kv_bytes or 0, 40 * MB))
        engine = open_engine(model.source, model.ids, config, on_progress, self.keep)
        if self.out_of_memory == model.queue:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return engine

    def advance(self, waiting: Mapping[str, Waiting], running: Mapping[str, Running] | None = None) -> None:
        for change in self.shelf.advance(waiting, running or {}):
            self._take(change)

    def _take(self, change: Change) -> None:
        if isinstance(change, Opened):
            self.engines[change.queue] = change.engine, change.num_threads
        elif isinstance(change, Leaving):
            del self.engines[change.queue]
            self.shelf.closed(change.queue)
        elif isinstance(change, LoadFailed):
            self.faults.append(change)

    def wait_for(self, queue: str) -> None:
        """Until the model is loaded, or has failed."""
        while queue not in self.engines and not self.faults:
            self.advance({queue: ONE_WAITS})
            if self.shelf.opener.is_busy:
                assert self.woken.wait(60)
                self.woken.clear()
        self.advance({})

    def answer(self, queue: str, while_busy: threading.Event | None = None) -> list[int]:
        engine, num_threads = self.engines[queue]
        sampling = SamplingParams(max_tokens=24, seed=0, temperature=0.0, ignore_eos=True)
        compute_with(num_threads)
        engine.add(GenerationRequest(f"to {queue}", queue, tuple(prompt_of(20)), sampling))
        tokens: list[int] = []
        while engine.has_work:
            tokens += [token for _, event in engine.step() if isinstance(event, Delta) for token in event.token_ids]
        return tokens


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_search() -> Iterator[None]:
    """As in a worker, whose libraries are not searched for garbage at each swap."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tiny(model_folder: ModelFolder) -> Path:
    return model_folder()


def test_ten_swaps_leave_the_same_memory_and_the_same_answers(tiny: Path) -> None:
    models = TwoModels(tiny, max_loaded=1)
    answers, levels, fds = [], [], []
    for _ in range(5):
        for queue in ("demo", "tiny"):
            models.wait_for(queue)
            assert list(models.engines) == [queue]
            answers.append(models.answer(queue))
        gc.collect()
        levels.append(resident_bytes())
        fds.append(len(list(FDS.iterdir())))
    assert answers == answers[:2] * 5
    assert max(levels[2:]) - levels[1] < 8 * MB, levels
    assert fds[1:] == fds[1:2] * 4, "mappings of kept weights go with their engines"
    assert models.shelf.num_swaps == 9
    assert sorted(entry.status for entry in models.shelf.report("w", {}).entries) == ["loaded", "warm"]


def test_models_that_fit_together_stay_together(tiny: Path) -> None:
    models = TwoModels(tiny, max_loaded=2)
    for queue in ("demo", "tiny", "demo", "tiny"):
        models.wait_for(queue)
        assert models.answer(queue)
    assert sorted(models.engines) == ["demo", "tiny"]
    assert models.shelf.num_swaps == 0


def test_answers_are_the_same_while_another_model_is_loaded(tiny: Path) -> None:
    models = TwoModels(tiny, max_loaded=2)
    models.wait_for("demo")
    undisturbed = models.answer("demo")
    models.advance({"tiny": ONE_WAITS})
    num_answers = 0
    while models.shelf.opener.is_busy and not models.woken.is_set():
        assert models.answer("demo") == undisturbed
        num_answers += 1
    models.wait_for("tiny")
    assert num_answers > 0


def test_a_load_without_memory_leaves_the_other_model_serving(tiny: Path) -> None:
    models = TwoModels(tiny, max_loaded=2)
    models.wait_for("demo")
    expected = models.answer("demo")
    models.out_of_memory = "tiny"
    models.wait_for("tiny")
    (failed,) = models.faults
    assert failed.may_retry
    assert "the GPU has no room for it" in failed.fault
    assert models.answer("demo") == expected
    models.faults.clear()
    models.out_of_memory = ""
    models.shelf.order("tiny", "load")
    models.wait_for("tiny")
    assert models.answer("tiny")


def test_steps_do_not_depend_on_the_default_dtype_that_loading_sets_for_a_moment(tiny: Path) -> None:
    models = TwoModels(tiny, max_loaded=2)
    models.wait_for("demo")
    expected = models.answer("demo")
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert models.answer("demo") == expected
    finally:
        torch.set_default_dtype(torch.float32)
