"""A hub model: the progress of its download, the files that are fetched, and a start without the hub."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from common.settings import DEMO_MODEL
from tests.chaos.harness import wait_until
from tests.service import ROOT, RunningService
from tests.worker.fake_hub import FakeHub
from worker.models import download

REPO = "omni/small"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SMALL = {path.name: path.read_bytes() for path in DEMO_MODEL.iterdir() if path.suffix != ".safetensors"}
OTHERS = (
    "pytorch_model.bin",
    "model.fp16.safetensors",
    "consolidated.safetensors",
    "onnx/model.onnx",
    "flax_model.msgpack",
)


def sharded() -> dict[str, bytes]:
    """The demo model in two files of about equal size, and files of other formats that a repository may have."""
    tensors = load_file(DEMO_MODEL / "model.safetensors")
    names = sorted(tensors, key=lambda name: tensors[name].nbytes)
    parts = dict(zip(SHARDS, (names[0::2], names[1::2]), strict=True))
    index = {"metadata": {}, "weight_map": {name: shard for shard, part in parts.items() for name in part}}
    files = {shard: save({name: tensors[name] for name in part}, {"format": "pt"}) for shard, part in parts.items()}
    return SMALL | files | {"model.safetensors.index.json": json.dumps(index).encode()} | dict.fromkeys(OTHERS, b"no")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub(REPO, sharded(), held=SHARDS[1])
    yield hub
    hub.close()


@pytest.fixture
def service(hub: FakeHub, tmp_path: Path) -> Iterator[RunningService]:
    settings = {"OMNI_MODEL": REPO, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    with RunningService(tmp_path, settings) as running:
        yield running


def test_a_download_reports_progress_and_fetches_only_needed_files(hub: FakeHub, service: RunningService) -> None:
    service.start("redis", "api", "worker")
    first, both = (sum(len(hub.files[name]) for name in SHARDS[:number]) / 1e6 for number in (1, 2))
    words = f"download, {first:.1f} of {both:.1f} MB"
    wait_until(lambda: service.redis().hget("omni:loading:small", "what") == words.encode(), 60, words)
    wait_until(lambda: "chat at" in service.log(), 60, "the API")
    with service.http() as http:
        assert http.get("/health").json()["progress"]["what"] == words
        assert http.get("/health").json()["progress"]["share"] == pytest.approx(f"{0.9 * first / both:.3f}")
        refused = http.post(
            "/v1/chat/completions", json={"model": "small", "messages": [{"role": "user", "content": "x"}]}
        )
        assert refused.status_code == 503
        assert refused.json()["error"]["message"] == f"Model not ready: {words} ({0.9 * first / both:.0%})"
        hub.release.set()
        service.wait_healthy()
    told = [float(share) for share in re.findall(r"loading small: .*\((\d+) %\)", service.log())]
    assert told == sorted(told) and told[0] == 0 and {90.0, 100.0} <= set(told)
    assert not set(OTHERS) & set(hub.asked) and [hub.asked.count(name) for name in SHARDS] == [1, 1]


SCRIPT = f"""
from worker.models.download import downloaded
def tell(what, share): print(what, round(share, 3))
downloaded("{REPO}", tell)("weights", 0.5)
print(downloaded("{REPO}", tell) is tell, downloaded("omni/unknown", tell) is tell)
"""


def test_a_file_is_fetched_once_and_an_unknown_model_is_left_to_transformers(tmp_path: Path) -> None:
    hub = FakeHub(REPO, sharded() | {"model.safetensors": b"x" * 3_000_000})
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    try:
        ran = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True)
    finally:
        hub.close()
    assert ran.stdout.splitlines() == [
        "download, 0.0 of 3.0 MB 0.0", "download, 3.0 of 3.0 MB 0.9", "weights 0.95", "True True",
    ], ran.stderr  # fmt: skip
    assert "the download of omni/unknown failed" in ran.stderr
    assert hub.asked == ["model.safetensors"]


@pytest.mark.parametrize(("model", "is_offline"), [(str(DEMO_MODEL), False), (REPO, True)])
def test_the_hub_is_not_asked_for_a_folder_or_offline(
    monkeypatch: pytest.MonkeyPatch, model: str, is_offline: bool
) -> None:
    monkeypatch.setattr(download, "is_offline_mode", lambda: is_offline)
    monkeypatch.setattr(download, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    assert download.downloaded(model, print) is print
