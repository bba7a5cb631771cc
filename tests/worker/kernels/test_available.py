"""Triton that is installed and does not run is not used."""

import shutil
import sysconfig
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

from worker.kernels import available
from worker.kernels.elementwise import fp8_rounding, to_fp8
from worker.kernels.linear import has_kernels
from worker.runners.candidates import uses_kernels, warn_without_triton
from worker.sampling import kernel_sampler
from worker.sampling.kernel_sampler import has_kernel

pytest.importorskip("triton")
from worker.kernels.gpu import runtime

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Failing:
    """A kernel on a machine without a C compiler."""

    def __init__(self) -> None:
        self.num_tries = 0

    def __getitem__(self, grid: object) -> "Failing":
        return self

    def __call__(self, out: torch.Tensor) -> None:
        self.num_tries += 1
        raise RuntimeError("Failed to find C compiler.")


class Silent(Failing):
    def __call__(self, out: torch.Tensor) -> None:
        """Writes nothing."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    """A machine with a GPU whose kernels cannot be compiled."""
    kernel, why = Failing(), runtime.why_no_launch
    monkeypatch.setattr(runtime, "fill_kernel", kernel)
    monkeypatch.setattr(runtime, "why_no_launch", lambda device: why(CPU))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for known in (available.why_no_triton, has_kernel):
        known.cache_clear()
    yield kernel
    for known in (available.why_no_triton, has_kernel):
        known.cache_clear()


def test_a_kernel_that_runs_is_enough() -> None:
    assert runtime.why_no_launch(CPU) == ""


def test_a_kernel_that_writes_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "fill_kernel", Silent())
    assert "does not write" in runtime.why_no_launch(CPU)


def test_without_a_compiler_everything_runs_on_torch_and_one_warning_says_what_to_install(
    broken: Failing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    assert not uses_kernels(GPU) and not has_kernels(GPU) and not has_kernel(GPU)
    assert fp8_rounding(GPU) is to_fp8
    warn_without_triton(GPU)
    assert broken.num_tries == 1
    assert caplog.text.count("Failed to find C compiler.") == 1
    assert "install gcc" in caplog.text and "headers of Python" in caplog.text


class Gpu(NamedTuple):
    """Looks like one; its tensors are on the CPU."""

    type: str = "cuda"


@pytest.mark.parametrize("fails", [False, True])
def test_torch_samples_where_the_kernel_of_sampling_does_not_run(
    fails: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*args: object) -> torch.Tensor:
        raise RuntimeError("no PTX for this GPU")

    monkeypatch.setattr(kernel_sampler, "one_token_of", lambda device: torch.tensor([[0.0, 1.0]]))
    if fails:
        monkeypatch.setattr("worker.kernels.gpu.sampling.sample_rows", refuses)
    has_kernel.cache_clear()
    assert has_kernel(Gpu()) is not fails  # type: ignore[arg-type]
    has_kernel.cache_clear()
    assert ("torch samples" in caplog.text) is fails


def test_a_cpu_launches_nothing(broken: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available.has_triton()
    assert broken.num_tries == 0
