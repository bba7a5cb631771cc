"""A stream of a CUDA driver that is none, on host memory, and small experts for it."""

import ctypes
import subprocess
from pathlib import Path

import torch

from worker.kernels.cuda_driver import CudaDriver
from worker.kernels.experts.activation import Activation
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.packed.weights import Weights

NUM_EXPERTS, WIDTH, INNER, TOP_K = 12, 64, 32, 3
CPU = torch.device("cpu")


def fake_cuda(folder: Path) -> Path:
    """The library, compiled into the folder."""
    source, path = Path(__file__).with_name("fake_cuda.c"), folder / "fake_cuda.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(path), str(source)], check=True, timeout=240)
    return path


class FakeStream:
    """As CudaStream. What is put runs when the device meets it or, of a recording, at each replay()."""

    def __init__(self, library: Path) -> None:
        self.driver = CudaDriver(str(library))
        self.library = ctypes.CDLL(str(library))
        self.is_recording = False

    def told(self) -> None:
        pass

    def wait(self, mark: None) -> None:
        pass

    def mark(self) -> None:
        pass

    def meet(self, mark: None) -> None:
        if not self.is_recording:
            self.library.run_stream(1)

    def to_host(self, host: torch.Tensor, source: torch.Tensor) -> None:
        self.driver.to_host(host.data_ptr(), source.data_ptr(), source.nbytes, 0)

    def to_device(self, target: torch.Tensor, host: torch.Tensor) -> None:
        self.driver.to_device(target.data_ptr(), host.data_ptr(), target.nbytes, 0)

    def call(self, function: int, argument: int) -> None:
        self.driver.call(function, argument, 0)

    def replay(self) -> None:
        self.library.run_stream(0)

    def end_recording(self) -> None:
        """Forget what was recorded."""
        self.is_recording = False
        self.library.run_stream(1)


def small_layer(*, has_bias: bool = False, num_experts: int = NUM_EXPERTS) -> ExpertLayer:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    up = Weights("dense", torch.float32, WIDTH, random(num_experts, 2 * INNER, WIDTH) / WIDTH**0.5)
    down = Weights("dense", torch.float32, INNER, random(num_experts, WIDTH, INNER) / INNER**0.5)
    biases = (random(num_experts, 2 * INNER), random(num_experts, WIDTH)) if has_bias else (None, None)
    return ExpertLayer(up, down, *biases, Activation())


def inputs(
    num_tokens: int, seed: int = 0, num_experts: int = NUM_EXPERTS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, chosen experts and their weights."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(num_tokens, num_experts, generator=generator).softmax(-1)
    weights, chosen = scores.topk(TOP_K)
    return torch.randn(num_tokens, WIDTH, generator=generator), chosen, weights
