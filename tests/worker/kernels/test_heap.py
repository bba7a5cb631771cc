"""Memory that was freed."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, ctypes
from worker.process_setup import prepare_process
prepare_process()
from worker.kernels.heap import freed_memory_returned

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def held():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024

def filled(size):
    place = ctypes.c_void_p(libc.malloc(size))
    ctypes.memset(place, 1, size)
    return place

def convert():
    for _ in range(40):
        passing = [filled(2**23) for _ in range(3)]
        filled(2**16)  # kept, and lies behind them in the heap
        for place in passing:
            libc.free(place)

for context in (freed_memory_returned(), contextlib.nullcontext()):
    before = held()
    with context:
        convert()
    print(held() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's allocator")
def test_what_loading_frees_goes_back_to_the_system() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    while_active, else_ = map(int, found.split())
    assert while_active < 8 < else_
