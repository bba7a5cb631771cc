"""A closed engine holds nothing, and may be closed again."""

import gc
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.engine.engine import Engine
from worker.engine.interface import EngineStats
from worker.kept.keep import Keep
from worker.models.loader import load


def test_a_closed_engine_has_no_work_no_memory_and_no_weights(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder(), SMALL)
    bench.add("a", prompt_of(9))
    bench.step(2)
    engine = bench.engine
    held = [weakref.ref(part) for part in (engine.runner, engine.runner.kv_cache, bench.loaded.model)]
    assert engine.kv_bytes > 0
    del bench.loaded
    engine.close()
    engine.close()
    gc.collect()
    assert not engine.has_work and engine.kv_bytes == 0 and engine.stats() == EngineStats()
    assert [part() for part in held] == [None, None, None]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_after_engines_were_opened_and_closed_no_shared_memory_no_file_and_no_thread_is_left(
    model_folder: ModelFolder,
) -> None:
    keep = KeepForOthers.none()
    levels = []
    for _ in range(4):
        for folder in (model_folder(), model_folder("qwen2")):
            open_and_close(str(folder), keep)
        levels.append(held())
    assert levels[1] == levels[-1] and not [name for name in keep.sizes() if name.startswith("kv:")]


class KeepForOthers(Keep):
    """As beside a keeper: keys and values are kept too."""

    @property
    def outlives_us(self) -> bool:
        return True


def open_and_close(folder: str, keep: Keep) -> None:
    config = replace(SMALL, dtype="bfloat16")
    loaded = load(folder, ("tiny",), config, lambda what, share: None, keep)
    engine = Engine(loaded, config)
    del loaded
    assert any(name.startswith("kv:") for name in keep.sizes())
    engine.add(Bench.request("a", prompt_of(40)))
    while engine.has_work:
        engine.step()
    engine.close()


def held() -> tuple[int, int, int]:
    """Mappings of memfds, open files, threads of this process."""
    maps = Path("/proc/self/maps").read_text().count("memfd")
    return maps, len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))
