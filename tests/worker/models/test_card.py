"""A model's card: its revision, and the check of its chat template."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import save_model
from tests.service import ROOT
from tests.worker.fake_hub import COMMIT, FakeHub
from tests.worker.models.damaged import failure, loaded
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


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_with_a_syntax_error_is_refused_with_its_file_name(tmp_path: Path, file: str) -> None:
    folder = save_model(tmp_path, "llama")
    if file == "chat_template.jinja":
        (folder / file).write_text("{% for x in %}")
    else:
        (folder / "chat_template.jinja").unlink()
        tokenizer = json.loads((folder / file).read_text()) | {"chat_template": "{{ messages"}
        (folder / file).write_text(json.dumps(tokenizer))
    assert failure(folder).startswith(f"its {file} has a syntax error (line 1: ")


def test_a_template_that_may_refuse_messages_is_accepted(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system message here') }}")
    assert loaded(folder).card.chat_template
