"""Engines with recorded steps whose memory leaves and returns, on a CPU: the driver and CUDA graphs are stand-ins."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu_shelf
from bench.gpu_bench import Bench as GpuBench
from bench.gpu_report import Report, read_lines
from common.shelf.table import TableModel
from tests.worker import gpu_stand_ins
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.drafting.conftest import Longest
from tests.worker.gpu_memory.conftest import StandInDriver
from tests.worker.gpu_stand_ins import launched, recorded
from tests.worker.shelf.test_real_models import TwoModels
from worker.attention.kernel import KernelAttention
from worker.attention.paged import PagedAttention
from worker.drafting import drafter
from worker.engine.engine import Engine
from worker.engine.interface import AnyEngine
from worker.gpu_memory.arena import Arena, VirtualArena
from worker.models.loader import EngineConfig, load
from worker.progress import OnProgress
from worker.runners import choose
from worker.runners.base import ModelRunner
from worker.runners.decoder import DecoderRunner
from worker.runners.recorded import recordings as recordings_module
from worker.runners.recorded.recordings import Recordings
from worker.shelf.warm.models import WarmModels
from worker.shelf.warm.sleepers import Sleepers

CPU = torch.device("cpu")
GENERATED = 12


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights that no library hides, attention over a block table, and recorded steps."""
    monkeypatch.setattr(KernelAttention, "write", PagedAttention.write)
    monkeypatch.setattr("worker.attention.kernel.attend", launched(gpu_stand_ins.attend))
    monkeypatch.setattr("worker.kernels.linear.can_pack", lambda dtype: False)
    monkeypatch.setattr(choose, "candidates", lambda device, **_: [(DecoderRunner, KernelAttention.of_rows)])
    monkeypatch.setattr(
        choose, "new_recordings", lambda runner, config, tokens, most, **_: Recordings(config.speculate, 16)
    )
    monkeypatch.setattr(recordings_module, "cuda_capture", lambda **_: recorded)
    monkeypatch.setattr(drafter, "Lengths", Longest)
    yield


def bench_with(folder: Path, arena: Arena | None, config: EngineConfig = SMALL) -> Bench:
    """An engine that is warm."""
    bench = Bench.__new__(Bench)
    bench.folder, bench.events = folder, {}
    bench.loaded = replace(load(str(folder), ("tiny",), config, lambda stage, share: None), arena=arena)
    bench.engine = Engine(bench.loaded, config)
    bench.engine.warm_up(lambda what, share: None)
    return bench


def answered(bench: Bench, name: str) -> list[int]:
    bench.add(name, prompt_of(40), max_tokens=GENERATED, ignore_eos=True)
    bench.finish()
    return bench.token_ids(name)


def runner_of(bench: Bench) -> Any:
    assert isinstance(bench.engine.runner, ModelRunner)
    return bench.engine.runner


def test_a_model_that_returns_replays_its_steps_and_gives_the_same_tokens(
    model_folder: ModelFolder, driver: StandInDriver
) -> None:
    arena = VirtualArena(CPU, driver)
    bench = bench_with(model_folder(), arena)
    expected = bench.generate(prompt_of(40), GENERATED)
    assert answered(bench, "first") == expected
    steps, mapped = list(runner_of(bench).recordings.steps), driver.mapped_bytes
    assert steps and mapped
    for name in ("second", "third"):
        assert bench.engine.sleeping.sleep() and arena.host_bytes > 0
        assert driver.mapped_bytes == 0
        bench.engine.sleeping.wake(None)
        bench.engine.warm_up(lambda what, share: None)
        assert driver.mapped_bytes == mapped
        assert answered(bench, name) == expected
    assert runner_of(bench).recordings.steps == steps  # nothing was recorded again
    bench.engine.close()
    assert driver.mapped_bytes == 0


def test_without_the_driver_steps_are_recorded_again(model_folder: ModelFolder) -> None:
    bench = bench_with(model_folder(), Arena(CPU))
    expected = answered(bench, "first")
    steps, free = list(runner_of(bench).recordings.steps), runner_of(bench).kv_cache.pool.num_free
    assert bench.engine.sleeping.sleep()
    assert runner_of(bench).kv_cache.keys[0].untyped_storage().nbytes() == 0
    bench.engine.sleeping.wake(None)
    assert not runner_of(bench).recordings.steps
    bench.engine.warm_up(lambda what, share: None)
    assert answered(bench, "second") == expected == bench.generate(prompt_of(40), GENERATED)
    again = runner_of(bench).recordings.steps
    assert len(again) == len(steps) and not set(map(id, again)) & set(map(id, steps))
    assert runner_of(bench).kv_cache.pool.num_free == free


def test_nothing_of_before_is_found_in_the_cache(model_folder: ModelFolder, driver: StandInDriver) -> None:
    bench = bench_with(model_folder(), VirtualArena(CPU, driver))
    expected = answered(bench, "first")
    bench.engine.sleeping.sleep()
    bench.engine.sleeping.wake(None)
    before = bench.engine.num_cached_tokens
    assert answered(bench, "second") == expected and bench.engine.num_cached_tokens == before
    assert answered(bench, "third") == expected and bench.engine.num_cached_tokens > before


def test_keys_and_values_get_more_or_less_memory_while_answers_run(
    model_folder: ModelFolder, driver: StandInDriver
) -> None:
    bench = bench_with(model_folder(), VirtualArena(CPU, driver), replace(SMALL, kv_memory_bytes=2**18))
    expected = bench.generate(prompt_of(40), GENERATED)
    demand = bench.engine.take_kv_demand()
    assert demand.least_bytes < bench.engine.kv_bytes < demand.most_bytes
    for at in range(6):
        bench.add(f"r{at}", prompt_of(40), max_tokens=GENERATED, ignore_eos=True)
    for num_bytes in (demand.least_bytes, 2**19, 2**17, 2**18):
        bench.step(4)
        bench.engine.resize_kv(num_bytes)
    bench.finish()
    assert all(bench.token_ids(f"r{at}") == expected for at in range(6))
    large = driver.mapped_bytes
    bench.engine.resize_kv(demand.most_bytes)
    grown = driver.mapped_bytes
    bench.engine.sleeping.sleep()
    bench.engine.sleeping.wake(demand.least_bytes)
    assert driver.mapped_bytes <= large < grown
    assert answered(bench, "last") == expected


def test_a_draft_model_leaves_and_returns_with_its_model(model_folder: ModelFolder, driver: StandInDriver) -> None:
    folder = model_folder()
    config = replace(SMALL, speculate=3, draft_model=str(folder))
    arena = VirtualArena(CPU, driver)
    bench = bench_with(folder, arena, config)
    expected = bench.generate(prompt_of(40), GENERATED)
    assert answered(bench, "first") == expected
    drafted = bench.engine.stats().accepted_tokens
    bench.engine.sleeping.sleep()
    assert driver.mapped_bytes == 0
    bench.engine.sleeping.wake(None)
    assert answered(bench, "second") == expected
    assert bench.engine.stats().accepted_tokens > drafted > 0


def test_a_model_for_which_host_memory_has_no_room_stays(
    model_folder: ModelFolder, driver: StandInDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = bench_with(model_folder(), VirtualArena(CPU, driver))

    def refuse(*args: object) -> None:
        raise MemoryError("no pages")

    monkeypatch.setattr("worker.gpu_memory.arena.HostBlocks", refuse)
    assert not bench.engine.sleeping.sleep() and "no room for the weights" in caplog.text
    assert answered(bench, "first") == bench.generate(prompt_of(40), GENERATED)
    plain = bench_with(model_folder(), None)
    assert not plain.engine.sleeping.sleep()


def test_the_bench_of_models_that_leave_runs_through(
    driver: StandInDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rehearsal without a GPU: every comparison of tokens holds."""
    monkeypatch.setattr(gpu_shelf, "arena_of", lambda device: VirtualArena(device, driver))
    report = Report(tmp_path / "gpu.jsonl", "CPU")
    for section in (gpu_shelf.swaps, gpu_shelf.by_torch):
        section(GpuBench("tiny", CPU, report))
    told = capsys.readouterr().out
    assert "WRONG" not in told and "NO" not in told and "steps recorded again: False" in told
    numbers = {line["number"]: line["value"] for line in read_lines(tmp_path / "gpu.jsonl") if "number" in line}
    assert numbers["shelf/round 2/same"] == 1 and "shelf/resized ms" in numbers


class TwoOnAGpu(TwoModels):
    """Two small models that come and go in one process, with the card and the recordings of a stand-in."""

    def __init__(self, tiny: Path, driver: StandInDriver) -> None:
        self.driver, self.num_opened = driver, 0
        super().__init__(tiny, max_loaded=1)
        self.shelf.memory.holds_kept = False
        self.shelf.warm = WarmModels(Sleepers(2**30), 2**30)
        for place in self.shelf.places:
            place.kept_name = f"weights:{place.queue}"

    def _open(self, model: TableModel, on_progress: OnProgress, kv_bytes: int | None) -> AnyEngine:
        self.num_opened += 1
        config = replace(SMALL, kv_memory_bytes=min(kv_bytes or 0, 2**22))
        loaded = load(model.source, model.ids, config, on_progress)
        return Engine(replace(loaded, arena=VirtualArena(CPU, self.driver)), config)


def test_a_shelf_lets_models_leave_and_return(model_folder: ModelFolder, driver: StandInDriver) -> None:
    models = TwoOnAGpu(model_folder(), driver)
    answers, mapped = [], []
    for _ in range(3):
        for queue in ("demo", "tiny"):
            models.wait_for(queue)
            answers.append(models.answer(queue))
            mapped.append(driver.mapped_bytes)
    assert answers == answers[:2] * 3 and models.num_opened == 2
    assert mapped[2:4] == mapped[4:], "each has the card for itself"
    states = {entry.queue: entry.status for entry in models.shelf.report("w", {}).entries}
    assert states == {"demo": "warm", "tiny": "loaded"}
