"""The revision in a model's card."""

import os
import subprocess
import sys
from pathlib import Path

from tests.service import ROOT
from tests.worker.fake_hub import COMMIT, FakeHub
from worker.models.card import revision_of

REPO = "omni/small"
SCRIPT = f"""
from transformers import AutoConfig
from worker.models.card import revision_of
AutoConfig.from_pretrained("{REPO}")
print(revision_of("{REPO}"))
"""


def test_the_revision_of_a_hub_model_is_its_commit(tmp_path: Path) -> None:
    hub = FakeHub(REPO, {"config.json": b'{"model_type": "llama"}'})
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    try:
        ran = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True)
    finally:
        hub.close()
    assert ran.stdout.strip() == COMMIT, ran.stderr


def test_the_revision_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    first = revision_of(str(tmp_path))
    assert revision_of(str(tmp_path)) == first
    (tmp_path / "config.json").write_text('{"a": 1}')
    second = revision_of(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert len({first, second, revision_of(str(tmp_path))}) == 3
