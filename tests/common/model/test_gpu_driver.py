"""A device that cannot be there is told before torch is loaded."""

import pytest

from common.model import gpu_driver
from common.model.gpu_driver import device_fault


@pytest.mark.parametrize(
    ("device", "torch", "has_driver", "fault"),
    [
        ("auto", "2.13.0+cpu", False, None),
        ("cpu", "2.13.0+cpu", False, None),
        ("cuda", "2.13.0+cpu", True, "OMNI_DEVICE=cuda: torch 2.13.0+cpu is a build without CUDA."),
        ("cuda:1", "2.13.0", False, "OMNI_DEVICE=cuda:1: NVIDIA's driver is not installed"),
        ("cuda", "2.13.0", True, None),
        ("cuda", "2.13.0+rocm6.4", False, None),
    ],
)
def test_what_the_build_of_torch_and_the_driver_say(monkeypatch, device, torch, has_driver, fault):
    monkeypatch.setattr(gpu_driver.metadata, "version", {"torch": torch}.__getitem__)
    monkeypatch.setattr(gpu_driver, "has_driver", lambda: has_driver)
    assert device_fault(device).startswith(fault) if fault else device_fault(device) == ""
