"""Kernels round in tests as on a GPU."""

import pytest

from tests.worker.interpreter import rounds_as_a_gpu

__all__ = ["rounds_as_a_gpu"]


@pytest.fixture(autouse=True)
def right_rounding(rounds_as_a_gpu: None) -> None:
    """For every test of this folder."""
