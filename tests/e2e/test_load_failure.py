"""A model that cannot be loaded ends what `make run` started: one sentence, status 2, no traceback, no second try."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.models import save_model
from tests.service import RunningService

CHANGES = {
    "a missing library": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "missing layers": {"num_hidden_layers": 12},
    "an unknown type": {"model_type": "nope"},
}


@pytest.mark.parametrize("kind", [*CHANGES, "weights cut short", "a broken template"])
def test_one_sentence_and_the_end(tmp_path: Path, kind: str) -> None:
    folder = save_model(tmp_path / "model", "llama")
    if kind == "weights cut short":
        (folder / "model.safetensors").write_bytes(b"x" * 100)
    elif kind == "a broken template":
        (folder / "chat_template.jinja").write_text("{% for x in %}")
    else:
        if kind == "a missing library" and find_spec("bitsandbytes") is not None:
            pytest.skip("bitsandbytes is installed")
        config = json.loads((folder / "config.json").read_text()) | CHANGES[kind]
        (folder / "config.json").write_text(json.dumps(config))
    service = RunningService(tmp_path, {"OMNI_MODEL": str(folder)})
    try:
        service.start("redis")
        assert service.spawn("worker").wait(120) == 2
        said = [line for line in service.log().splitlines() if "cannot be loaded" in line]
        assert len(said) == 1 and said[0].startswith(f"configuration: OMNI_MODEL={folder} cannot be loaded: ")
        assert "Traceback" not in service.log() and "[transformers]" not in service.log()
    finally:
        service.stop()
