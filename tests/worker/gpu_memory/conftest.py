"""A driver of the CPU's own memory, for arenas of tensors on a CPU."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.gpu_memory.driver import MemoryDriver

SOURCE = Path(__file__).with_name("stand_in_driver.c")


class StandInDriver(MemoryDriver):
    """With a card of as many bytes as a test sets."""

    def __init__(self, library: str) -> None:
        super().__init__(library, 0)
        self.card = ctypes.CDLL(library)
        self.card.set_left.argtypes, self.card.get_left.restype = (ctypes.c_size_t,), ctypes.c_size_t

    @property
    def left(self) -> int:
        return int(self.card.get_left())

    @left.setter
    def left(self, num_bytes: int) -> None:
        self.card.set_left(num_bytes)


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("driver") / "driver.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    return str(library)


@pytest.fixture
def driver(driver_library: str) -> Iterator[StandInDriver]:
    driver = StandInDriver(driver_library)
    driver.left = 2**40
    yield driver
