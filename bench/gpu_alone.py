"""Kernels alone: what they compute against a reference, and how long they take against the memory's bandwidth."""

import os
import statistics
from collections.abc import Callable, Sequence

import torch

from bench.gpu_bench import Bench
from bench.roofline import seconds_of
from worker.kernels.available import has_triton

REPEATS = 10  # of a recording
COLD_BYTES = 256 * 2**20  # data of all copies together, several times an H100's cache of 50 MB


def can_run_triton(bench: Bench) -> bool:
    """On a GPU, or interpreted on a CPU; otherwise the report says that the section is left out."""
    if has_triton() and (bench.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"):
        return True
    bench.report.say("left out: it needs Triton, and a GPU or TRITON_INTERPRET=1")
    return False


class Checks:
    """A table of errors against references. A failed check is a row; the section fails at the end."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.num_wrong = 0
        bench.report.columns("kernel", "case", "largest error / spread", "bound", "")

    def check(self, kernel: str, case: str, bound: float, run: Callable[[], float]) -> None:
        report = self.bench.report
        try:
            error = run()
            failure = "" if error <= bound else "WRONG"
        except Exception as raised:
            error, failure = float("nan"), f"FAILED: {type(raised).__name__}: {str(raised)[:200]}"
            self.bench.synchronize()  # raises if the device is lost: nothing after it would run
        self.num_wrong += failure != ""
        report.row(kernel, case, f"{error:.2g}", bound, failure)
        report.line({"check": f"{kernel}/{case}", "error": None if error != error else error, "failure": failure})

    def end(self) -> None:
        """Raises AssertionError if a check failed."""
        assert not self.num_wrong, f"{self.num_wrong} checks failed"


def error_of(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in standard deviations of what is expected; infinite if a number is not finite."""
    difference = (got.double() - expected.double()).abs().amax() / expected.double().std()
    return float(difference.nan_to_num(float("inf"), float("inf")))


class Timings:
    """A table of times of kernels alone, as shares of the bandwidth."""

    def __init__(self, bench: Bench, bandwidth: float) -> None:
        self.bench, self.bandwidth = bench, bandwidth
        self.num_failed = 0
        bench.report.columns("kernel", "case", "us", "GB/s", "share of the bandwidth")

    def time(
        self, kernel: str, case: str, num_bytes: float, runs: Callable[[int], Sequence[Callable[[], object]]]
    ) -> None:
        """`runs`(number of copies) makes calls that compute the same over data of their own, `num_bytes` each."""
        report = self.bench.report
        try:
            is_tiny = self.bench.device.type != "cuda"
            copies = 1 if is_tiny else max(1, min(64, int(COLD_BYTES / num_bytes) + 1))
            seconds = alone_seconds(runs(copies), self.bench.device)
        except Exception as raised:
            report.row(kernel, case, "", "", f"FAILED: {type(raised).__name__}: {str(raised)[:200]}")
            report.line({"timing": f"{kernel}/{case}", "failure": str(raised)[:200]})
            self.num_failed += 1
            self.bench.synchronize()
            return
        speed = num_bytes / seconds
        report.row(kernel, case, seconds * 1e6, speed / 1e9, f"{speed / self.bandwidth:.1%}")
        report.number(f"alone/{kernel}/{case}/us", seconds * 1e6, share=speed / self.bandwidth)

    def end(self) -> None:
        """Raises AssertionError if a kernel failed."""
        assert not self.num_failed, f"{self.num_failed} kernels failed"


@torch.inference_mode()
def alone_seconds(runs: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Of one call: the calls are recorded and replayed, so that launching them from Python takes no part."""
    if device.type != "cuda":
        return statistics.median(seconds_of(runs[0], device, 1))
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for run in runs:
            run()  # compiles
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            for run in runs:
                run()
    graph.replay()
    return statistics.median(seconds_of(graph.replay, device, 5)) / (REPEATS * len(runs))
