"""The choice of a device, and the loss of a GPU. No GPU is needed: torch's answers are replaced."""

import pytest
import torch
from redis import Redis

from common.settings import DEMO_MODEL, read_settings
from tests.worker.conftest import Bench, prompt_of
from worker import device
from worker.jobs.ledger import Ledger
from worker.main import load_and_warm_up


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "tpu-v9"])
def test_an_absent_device_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(device.NoSuchDevice, match=name):
        device.choose_device(name)


@pytest.mark.parametrize(("embeds", "setting"), [(False, "OMNI_DEVICE=cuda:9"), (True, "--device cuda:9")])
def test_a_worker_without_its_device_names_the_setting(
    embeds: bool, setting: str, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_settings({"OMNI_DEVICE": "cuda:9", "OMNI_EMBEDDING_MODEL": str(DEMO_MODEL)})
    with pytest.raises(SystemExit, match="2"):
        load_and_warm_up(settings, Ledger(redis, "queue", "worker"), None, embeds=embeds, device="cuda:9")
    assert f"configuration: {setting}: there is no device cuda:9" in capsys.readouterr().err


def test_the_named_gpu_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and graphs are created on the current one."""
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    for name in ("cpu", "cuda", "cuda:1"):
        device.use_device(device.choose_device(name))
    assert used == [torch.device("cuda:1")]


def test_a_lost_gpu_fails_no_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access every call fails, so the process has to end; no job may fail because of it."""

    def lost(*_: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    bench.add("r", prompt_of(5))
    monkeypatch.setattr(bench.engine.runner, "forward", lost)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(torch.AcceleratorError):
        bench.step()
