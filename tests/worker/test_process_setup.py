"""A worker process is set up before torch is loaded, and only by a call."""

import ctypes
import subprocess
import sys

import pytest

SHOW = "import os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


def shown(code: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """GOMP_SPINCOUNT in a process that has run this code, and whether torch is loaded there."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", f"{code}; {SHOW}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_worker_changes_nothing_and_loads_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown("import worker.main", monkeypatch) == "None False"


def test_threads_spin_between_steps_unless_the_operator_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = "from worker.process_setup import prepare_process; prepare_process()"
    assert shown(prepare, monkeypatch) == "3000000 False"
    assert shown(prepare, monkeypatch, GOMP_SPINCOUNT="1") == "1 False"


def test_benchmarks_compute_as_a_worker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown("import bench", monkeypatch) == "3000000 False"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_stats"), reason="glibc's allocator")
def test_all_threads_share_one_heap() -> None:
    """A thread's own heap ends at 64 MiB: larger tensors would return to the system as soon as they are freed."""
    script = """
import ctypes, threading
from worker.process_setup import prepare_process
prepare_process()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for _ in range(4):
    thread = threading.Thread(target=libc.malloc, args=(1000,))
    thread.start()
    thread.join()
libc.malloc_stats()
"""
    stats = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stderr
    assert stats.count("Arena") == 1, stats


READS = """
import sys
from collections import Counter
from worker.process_setup import prepare_transformers
reads = Counter()
sys.addaudithook(lambda event, args: event == "open" and reads.update([str(args[0])]))
{}
import transformers.models
llama = [num for path, num in reads.items() if path.endswith("transformers/models/llama/modeling_llama.py")]
print(*llama)
"""


@pytest.mark.parametrize(("prepares", "reads"), [("prepare_transformers()", "1"), ("", "2")])
def test_transformers_reads_the_files_of_its_models_once(prepares: str, reads: str) -> None:
    """Without our preparation twice: when that prints 1, transformers has mended it, and ours can go."""
    command = [sys.executable, "-c", READS.format(prepares)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == reads
