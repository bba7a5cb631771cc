"""Parts of bench.gpu at the tiny shape on a CPU: their names come on stdin, `== part: exit code` goes out after each.

In a process of its own, as users run it: a section that hangs ends its process, and cProfile has been seen to stand
still, at the entry of a function, in a process of CPython 3.11 that had run thousands of other tests.
"""

import sys
import time
import warnings
from pathlib import Path

import torch

from bench.gpu import run_part
from bench.gpu_bench import Bench
from bench.gpu_report import Report
from bench.gpu_sections import named
from tests.worker.interpreter import make_quicker

LIMIT_S = 600


def main() -> None:
    warnings.simplefilter("ignore")
    make_quicker()
    for part in map(str.strip, sys.stdin):
        bench = Bench("tiny", torch.device("cpu"), Report(Path(sys.argv[1]) / f"{part}.jsonl", "CPU"))
        code = run_part(named([part]), bench, time.time() + LIMIT_S)
        print(f"\n== {part}: {code}", flush=True)


if __name__ == "__main__":
    main()
