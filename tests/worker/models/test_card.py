"""A model's card: its revision, and the check of its chat template."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gguf_files import save_gguf
from tests.models import save_model
from tests.service import ROOT
from tests.worker.fake_hub import COMMIT, FakeHub
from tests.worker.models.damaged import failure, loaded
from tests.worker.models.formats.packers import gptq
from tests.worker.models.formats.twins import WIDE, save_twins
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
    third = revision_of(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    fourth = revision_of(str(tmp_path))
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    assert len({first, second, third, fourth, revision_of(str(tmp_path))}) == 5


def told(path: Path) -> tuple[str, str, int]:
    card = loaded(path).card
    return card.file_format, card.packing, card.file_bytes


def test_the_card_tells_the_form_of_the_weights_files(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "plain", "llama")
    assert told(folder) == ("safetensors", "F32", (folder / "model.safetensors").stat().st_size)
    packing = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    packed, _ = save_twins(tmp_path, "llama", gptq, packing)
    assert told(packed) == ("safetensors", "GPTQ", (packed / "model.safetensors").stat().st_size)


@pytest.mark.parametrize(("number", "name"), [(3, "Q4_1"), (15, "Q4_K_M"), (1024, "Q4_1")])
def test_the_card_of_a_gguf_file_tells_its_type_as_llama_cpp_does(number: int, name: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama", **WIDE)
    path = save_gguf(tmp_path / "tiny.gguf", folder, "llama", "Q4_1", general__file_type=number)
    assert told(path) == ("gguf", name, path.stat().st_size)


DEFAULT, WITH_TOOLS, RAG = "{{ messages }}", "{{ tools }}", "{{ documents }}"


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"default": DEFAULT, "tool_use": WITH_TOOLS, "rag": RAG}, (DEFAULT, WITH_TOOLS)),
        ({"rag": RAG, "default": DEFAULT}, (DEFAULT, None)),
        ({"tool_use": WITH_TOOLS}, (WITH_TOOLS, WITH_TOOLS)),
        ({"rag": RAG}, (None, None)),
    ],
)
def test_of_named_templates_the_card_has_the_default_and_that_for_tools(tmp_path: Path, named, expected) -> None:
    folder = save_model(tmp_path, "llama")
    (folder / "chat_template.jinja").unlink()
    listed = [{"name": name, "template": template} for name, template in named.items()]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": listed}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    card = loaded(folder).card
    assert (card.chat_template, card.tool_chat_template) == expected


def test_a_template_of_its_own_for_tools_may_be_a_file(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    default = (folder / "chat_template.jinja").read_text()
    (folder / "additional_chat_templates").mkdir()
    for name, template in (("tool_use", WITH_TOOLS), ("rag", RAG)):
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(template)
    card = loaded(folder).card
    assert (card.chat_template, card.tool_chat_template) == (default, WITH_TOOLS)
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools")
    assert failure(folder).startswith("its additional_chat_templates/tool_use.jinja has a syntax error (line 1: ")


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
