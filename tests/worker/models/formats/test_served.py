"""What works with packed weights as with others: sharded files, biases, tied embeddings, drafts, prefixes, images."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.wire import Finished
from tests.vision_models import save_vision_model
from tests.worker.conftest import SMALL, Bench, prompt_of
from tests.worker.models import test_vision
from tests.worker.models.damaged import loaded, set_config
from tests.worker.models.formats.packers import gptq
from tests.worker.models.formats.twins import MAX_TOKENS, Packed, check_twins, packed_beside, save_twins
from worker.engine.engine import Engine
from worker.models.formats.reader import weight_bytes
from worker.models.loader import load
from worker.runners.native_decoder import NativeDecoderRunner

FILE = "model.safetensors"
PACKING = {"quant_method": "gptq", "bits": 4, "group_size": 32}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """With biases, tied embeddings, and inputs in act-order."""
    pack = partial(gptq, act_order=True, symmetric=False)
    return save_twins(tmp_path_factory.mktemp("twins"), "qwen2", pack, PACKING, tie_word_embeddings=True)


def test_biases_and_tied_embeddings_answer_as_the_twin(twins: tuple[Path, Path]) -> None:
    assert isinstance(check_twins(*twins).engine.runner, NativeDecoderRunner)


def test_packed_weights_take_what_they_take_in_the_file(twins: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(twins[0], tmp_path / "half")
    set_config(folder, dtype="bfloat16")
    sizes = weight_bytes(loaded(folder, dtype="bfloat16").model)
    in_file = sum(tensor.nbytes for name, tensor in load_file(folder / FILE).items() if "proj" in name)
    assert sizes.keys() == {"int4", "bfloat16"} and sizes["int4"] < 1.1 * in_file


def test_a_sharded_checkpoint_is_read_by_its_index(twins: tuple[Path, Path], tmp_path: Path) -> None:
    packed, _ = twins
    tensors = load_file(packed / FILE)
    names, places = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], {}
    for number, name in enumerate(names):
        part = {key: tensors[key] for key in sorted(tensors)[number::2]}  # the parts of a weight are in both files
        save_file(part, tmp_path / name)
        places |= dict.fromkeys(part, name)
    for path in packed.iterdir():
        if path.name != FILE:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    benches = [Bench(folder) for folder in (packed, tmp_path)]
    for bench in benches:
        bench.add("r", prompt_of(9), max_tokens=MAX_TOKENS)
        bench.finish()
    assert benches[0].token_ids("r") == benches[1].token_ids("r")


def test_drafts_of_a_packed_model_are_taken_and_change_no_answer(twins: tuple[Path, Path]) -> None:
    packed, _ = twins
    plain = Bench(packed)
    drafting = Bench(packed, replace(SMALL, speculate=4, draft_model=str(packed)))
    for bench in (plain, drafting):
        bench.add("r", prompt_of(9), max_tokens=MAX_TOKENS, ignore_eos=True)
        bench.finish()
    assert drafting.token_ids("r") == plain.token_ids("r")
    assert len(drafting.deltas("r")) < len(plain.deltas("r")) / 2


def test_a_prompt_that_was_seen_is_not_computed_again(twins: tuple[Path, Path]) -> None:
    bench = Bench(twins[0])
    for request_id in ("a", "b"):
        bench.add(request_id, prompt_of(40))
        bench.finish()
    end = bench.end("b")
    assert isinstance(end, Finished) and end.cached_tokens == 32
    assert bench.token_ids("a") == bench.token_ids("b")


def test_the_language_model_of_a_vision_model_may_be_packed(tmp_path: Path) -> None:
    def pack(name: str, matrix: torch.Tensor) -> Packed | None:
        return gptq(name, matrix) if name.startswith("model.layers.") and name.endswith("proj.weight") else None

    packed, twin = packed_beside(save_vision_model(tmp_path / "twin", "qwen2_5_vl"), pack, PACKING)
    bench = test_vision.Bench(twin)
    model = load(str(packed), ("tiny",), test_vision.SMALL, lambda what, share: None)
    assert "int4" in weight_bytes(model.model)
    engine = Engine(model, test_vision.SMALL)
    engine.add(bench.request("r", test_vision.WIDE))
    events = []
    while engine.has_work:
        events += engine.step()
    assert test_vision.tokens(events, "r") == bench.expected(test_vision.WIDE)
