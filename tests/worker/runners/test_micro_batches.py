"""A large step of a small model split into parallel passes: the same tokens, and no pass outlives an error."""

import threading
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.worker.conftest import Bench, ModelFolder, prompt_of
from tests.worker.kernels.test_native import CONFIG, WIDE
from worker.models import loader
from worker.runners import micro_batches
from worker.runners.micro_batches import MicroBatches, cut
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.probe import probe_sequence
from worker.state.scheduled_sequence import ScheduledSequence

LENGTHS = (3, 16, 40, 100, 150, 60, 7, 90)
CROWD = replace(CONFIG, max_step_tokens=512, threads=None)


pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(micro_batches, "MIN_TOKENS", 32)
    yield
    torch.set_num_threads(before)


def rows_of(*num_tokens: int) -> list[ScheduledSequence]:
    """Rows with these numbers of tokens."""
    return [ScheduledSequence(probe_sequence([1] * number), number) for number in num_tokens]


@pytest.mark.parametrize(
    ("num_tokens", "parts"),
    [
        ((31, 32), [[31, 32]]),  # too few for two
        ((32, 32), [[32], [32]]),
        ((64, 64, 64, 64), [[64], [64], [64], [64]]),
        ((1, 1, 1, 200, 100, 100), [[1, 1, 1, 200], [100], [100]]),  # a row is never cut
        ((400,), [[400]]),
        ((100, 1, 1), [[100], [1, 1]]),
    ],
)
def test_parts_are_neighbouring_rows_of_about_equal_size(num_tokens: tuple[int, ...], parts: list[list[int]]) -> None:
    assert [[row.num_tokens for row in part] for part in cut(rows_of(*num_tokens), 4)] == parts


def test_many_prompts_at_once_get_the_tokens_of_generate(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    run = NativeDecoderRunner._run

    def noted(self: NativeDecoderRunner, *args: torch.Tensor) -> torch.Tensor:
        threads.add(threading.current_thread().name)
        return run(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(NativeDecoderRunner, "_run", noted)
    bench = Bench(model_folder("llama", **WIDE), CROWD)
    for num_tokens in LENGTHS:
        bench.add(f"r{num_tokens}", prompt_of(num_tokens), cache_salt=str(num_tokens))
    bench.finish()
    assert any(name.startswith("micro-batch") for name in threads)
    for num_tokens in LENGTHS:
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens))


def test_an_error_is_raised_after_all_passes_have_ended() -> None:
    """Otherwise rows would be run again while an old pass still writes their keys."""
    ended = []

    def forward(rows: Seq[ScheduledSequence]) -> torch.Tensor:
        if rows[0].num_tokens == 40:
            raise RuntimeError("kernel")
        assert torch.is_inference_mode_enabled()
        ended.append(sum(row.num_tokens for row in rows))
        return torch.zeros(len(rows), 4)

    with pytest.raises(RuntimeError, match="kernel"):
        MicroBatches(1).run(forward, rows_of(40, 41, 42))
    assert ended == [42]


def has_micro_batches(folder: Path, threads: int | None) -> bool:
    torch.set_num_threads(2)  # as in a new process
    runner = Bench(folder, replace(CROWD, threads=threads)).engine.runner
    assert isinstance(runner, NativeDecoderRunner)
    return runner.micro_batches is not None


def test_a_set_number_of_threads_is_used_for_products_only(model_folder: ModelFolder) -> None:
    folder = model_folder("llama", **WIDE)
    assert has_micro_batches(folder, None)
    assert not has_micro_batches(folder, 1)
    assert not has_micro_batches(folder, 2)


def test_a_large_model_is_not_split(model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "SMALL_MODEL_PARAMETERS", 0)
    assert not has_micro_batches(model_folder("llama", **WIDE), None)
