"""A model that cannot be loaded ends what `make run` started: one sentence, status 2, no traceback, no second try."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.models import save_model
from tests.service import ROOT, RunningService

LIBRARY = "a missing library"
CHANGES = {
    LIBRARY: {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "missing layers": {"num_hidden_layers": 12},
    "an unknown type": {"model_type": "nope"},
}


def save_broken(folder: Path, kind: str) -> Path:
    save_model(folder, "llama")
    if kind == "weights cut short":
        (folder / "model.safetensors").write_bytes(b"x" * 100)
    elif kind == "a broken template":
        (folder / "chat_template.jinja").write_text("{% for x in %}")
    else:
        config = json.loads((folder / "config.json").read_text()) | CHANGES[kind]
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_one_sentence(log: str, folder: Path) -> None:
    said = [line for line in log.splitlines() if "cannot be loaded" in line]
    assert len(said) == 1 and said[0].startswith(f"configuration: OMNI_MODEL={folder} cannot be loaded: ")
    assert "Traceback" not in log and "[transformers]" not in log


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A queue, and a folder for a model."""
    folder = tmp_path_factory.mktemp("service")
    with RunningService(folder, {"OMNI_MODEL": str(folder / "model")}) as service:
        yield service.start("redis")


@pytest.fixture(scope="module")
def loads(service: RunningService) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.failing_loads"], cwd=ROOT, env=service.env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        yield process


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_the_supervisor_ends_too(service: RunningService) -> None:
    folder = save_broken(service.folder / "model", LIBRARY)
    assert service.spawn("worker").wait(120) == 2
    assert_one_sentence(service.log(), folder)


@pytest.mark.parametrize("kind", ["missing layers", "an unknown type", "weights cut short", "a broken template"])
def test_one_sentence_and_the_end(service: RunningService, loads: "subprocess.Popen[str]", kind: str) -> None:
    shutil.rmtree(service.folder / "model", ignore_errors=True)
    folder = save_broken(service.folder / "model", kind)
    assert loads.stdin is not None and loads.stdout is not None
    print(file=loads.stdin, flush=True)
    log = ""
    for line in loads.stdout:
        if line.startswith("== "):
            break
        log += line
    assert line == "== 2\n", log
    assert_one_sentence(log, folder)
