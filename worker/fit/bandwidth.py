"""How fast this machine reads its memory, measured in a moment: decoding waits for little else."""

import time
from dataclasses import dataclass

import torch

MEASURED_BYTES = 2**30
NUM_TRIES = 4
SUPPOSED_GPU = 1e12  # bytes/s of a GPU that is not here


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second that all cores read of host memory, and that the GPU reads of its own."""

    host: float
    device: float

    def seconds(self, rest: float, experts: float, *, is_gpu: bool) -> float:
        """Of a step that reads these bytes: one after the other, since little of it can be done at once."""
        return rest / (self.device if is_gpu else self.host) + experts / self.host


def rates(device: torch.device | None) -> Rates:
    """`device`: a GPU of this machine; None for one that is supposed."""
    host = read_rate(torch.device("cpu"))
    return Rates(host, SUPPOSED_GPU if device is None or device.type == "cpu" else read_rate(device))


def read_rate(device: torch.device) -> float:
    numbers = torch.empty(MEASURED_BYTES // 8, dtype=torch.int64, device=device).fill_(1)  # by all cores, near each
    fastest = float("inf")
    for _ in range(NUM_TRIES):
        started = time.perf_counter()
        int(numbers.sum())
        fastest = min(fastest, time.perf_counter() - started)
    return MEASURED_BYTES / fastest
