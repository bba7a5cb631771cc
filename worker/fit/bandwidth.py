"""How fast this machine reads its memory, measured in a moment: decoding waits for little else."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

MEASURED_BYTES = 2**30
NUM_TRIES = 4
SUPPOSED_GPU = 1e12  # bytes/s of a GPU that is not here
SUPPOSED_HOSTS = (1e11, 3e11, 6e11)  # of memory that is not here: two channels of DDR5 to two sockets of twelve
LAYER_S = 0.5e-3  # at least, of a layer on a GPU without its experts: 8 layers took 4.0 ms on an H200 (bench.gpu)


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second that all cores read of host memory, and that the GPU reads of its own."""

    host: float
    device: float

    def seconds(self, rest: float, experts: float, num_layers: int, *, is_gpu: bool) -> float:
        """Of a step that reads these bytes: one after the other, since little of it can be done at once.

        On a GPU the layers' many small kernels take LAYER_S each, if reading does not take longer.
        """
        beside = max(rest / self.device, num_layers * LAYER_S) if is_gpu else rest / self.host
        return beside + experts / self.host


def rates(device: torch.device | None, hosts: Sequence[float]) -> list[Rates]:
    """`device`: a GPU of this machine; None for one that is supposed. `hosts`: of the memory; empty: measured here."""
    own = SUPPOSED_GPU if device is None or device.type == "cpu" else read_rate(device)
    return [Rates(host, own) for host in hosts or [read_rate(torch.device("cpu"))]]


def read_rate(device: torch.device) -> float:
    numbers = torch.empty(MEASURED_BYTES // 8, dtype=torch.int64, device=device).fill_(1)  # by all cores, near each
    fastest = float("inf")
    for _ in range(NUM_TRIES):
        started = time.perf_counter()
        int(numbers.sum())
        fastest = min(fastest, time.perf_counter() - started)
    return MEASURED_BYTES / fastest
