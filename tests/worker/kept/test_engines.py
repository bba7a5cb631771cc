"""Engines on kept weights compute what the first one did, and fall back to the files for whatever does not fit."""

import gc
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.wire import Delta, GenerationRequest, SamplingParams
from tests.deepseek import save_deepseek
from tests.deepseek_kin import GLM5
from tests.gguf_files import save_gguf
from tests.models import save_model
from tests.worker.kept.keepers import client, keeper
from tests.worker.runners.latent.models import NATIVE_WIDTHS
from worker.engine.engine import Engine
from worker.kept.folder import remove_unused
from worker.kept.keep import Keep
from worker.kept.tensors import KeptTensors
from worker.kernels.quantized import Int4, Int8
from worker.models.formats.reader import stored_products, weight_bytes
from worker.models.kept.key import CODE, kept_name
from worker.models.kept.state import KeptFault
from worker.models.loader import EngineConfig
from worker.opening import open_engine
from worker.runners.probe import probe_logits

SMALL = EngineConfig(max_num_seqs=4, threads=1, kv_memory_bytes=1 << 20)
WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "num_attention_heads": 2}
FOUR_BITS = {
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "v_head_dim": 32,
    "moe_intermediate_size": 64,
    "intermediate_size": 128,
}
ROOT = Path(__file__).parents[3]


def opened(source: Path, keep: Keep | None, config: EngineConfig = SMALL) -> Engine:
    torch.set_num_threads(1)
    engine = open_engine(str(source), ("tiny",), config, lambda what, share: None, keep)
    engine.warm_up(lambda what, share: None)
    return engine


def tokens(engine: Engine) -> list[int]:
    sampling = SamplingParams(max_tokens=12, seed=3, temperature=0.7, ignore_eos=True)
    engine.add(GenerationRequest("one", "tiny", tuple(range(5, 30)), sampling))
    found: list[int] = []
    while engine.has_work:
        found += [each for _, event in engine.step() if isinstance(event, Delta) for each in event.token_ids]
    return found


def logits(engine: Engine) -> torch.Tensor:
    return probe_logits(engine.runner, engine.runner.model)  # type: ignore[attr-defined]


def is_kept(keep: Keep) -> bool:
    return any(name.startswith("weights:") for name in keep.sizes())


def gguf(folder: Path) -> Path:
    return save_gguf(folder / "tiny.gguf", save_model(folder / "model", "llama", **WIDE), "llama", "Q8_0")


SOURCES: dict[str, tuple[Callable[[Path], Path], EngineConfig]] = {
    "float32": (lambda folder: save_model(folder, "llama"), SMALL),
    "bfloat16 in pairs": (
        lambda folder: save_model(folder, "qwen3", dtype=torch.bfloat16, **WIDE | {"num_key_value_heads": 2}),
        replace(SMALL, dtype="bfloat16"),
    ),
    "int8": (lambda folder: save_model(folder, "llama", **WIDE), replace(SMALL, quantization=Int8())),
    "int4": (lambda folder: save_model(folder, "llama", **WIDE), replace(SMALL, quantization=Int4())),
    "a GGUF": (gguf, SMALL),
    "another decoder runner": (lambda folder: save_model(folder, "gemma2"), SMALL),
    "experts": (lambda folder: save_model(folder, "mixtral", **WIDE), SMALL),
    "latents": (lambda folder: save_model(folder, "deepseek_v3"), SMALL),
    "latents by kernels": (lambda folder: save_model(folder, "deepseek_v3", **NATIVE_WIDTHS), SMALL),
    "latents by kernels in bf16": (
        lambda folder: save_model(folder, "deepseek_v32", dtype=torch.bfloat16, **NATIVE_WIDTHS, index_head_dim=48),
        replace(SMALL, dtype="bfloat16"),
    ),
    "latents in fp8, with an indexer": (lambda folder: save_deepseek(folder, mtp=""), SMALL),
    "latents in int4, with an indexer for two layers": (
        lambda folder: save_deepseek(folder, mtp="", version=GLM5, packed=False, index_topk_freq=2, **FOUR_BITS),
        replace(SMALL, quantization=Int4()),
    ),
    "latents in bf16": (lambda folder: save_deepseek(folder, mtp="", packed=False), replace(SMALL, dtype="bfloat16")),
    "tied embeddings": (lambda folder: save_model(folder, "llama", tie_word_embeddings=True), SMALL),
    "fused projections": (lambda folder: save_model(folder, "phi3"), SMALL),
}


@pytest.mark.parametrize("form", SOURCES)
def test_a_restored_engine_is_bitwise_the_first_one(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, config = SOURCES[form]
    source, keep = save(tmp_path / "source" if form != "a GGUF" else tmp_path), Keep.none()
    config = replace(config, products_table=tmp_path / "products.json")  # or each load would choose ways of its own
    plain = opened(source, None, config)
    expected, text = logits(plain), tokens(plain)
    first = opened(source, keep, config)
    assert is_kept(keep)
    assert torch.equal(logits(first), expected) and tokens(first) == text
    monkeypatch.setattr("worker.runners.choose.stock_logits", None)  # nothing is proven anew
    second = opened(source, keep, config)
    assert torch.equal(logits(second), expected) and tokens(second) == text
    assert second.card == replace(first.card)


@pytest.mark.parametrize("family", ["gpt_neox", "lfm2", "mamba"])
def test_models_with_other_runners_are_loaded_from_their_files_each_time(family: str, tmp_path: Path) -> None:
    source, keep = save_model(tmp_path, family), Keep.none()
    first = tokens(opened(source, keep))
    assert not is_kept(keep)
    assert tokens(opened(source, keep)) == first


def test_the_engine_uses_the_kept_memory_and_no_copy_of_its_own(tmp_path: Path) -> None:
    source, keep = save_model(tmp_path, "llama", **WIDE), Keep.none()
    engine: Any = opened(source, keep)
    (memory,) = keep._held.values()
    ranges = mappings(os.fstat(memory.fd).st_ino)
    weights = [engine.runner.embedding, engine.runner.norm.weight, *engine.runner.model.parameters()]
    weights += [torch.ops.mkldnn.data_ptr(linear.packed) for linear in engine.runner.linears]
    for weight in weights:
        address = weight if isinstance(weight, int) else weight.data_ptr()
        assert any(start <= address < stop for start, stop in ranges)


def mappings(inode: int) -> list[tuple[int, int]]:
    """The addresses where a file is mapped here."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split()
        if words[4] == str(inode):
            start, stop = words[0].split("-")
            found.append((int(start, 16), int(stop, 16)))
    return found


MIXTURES = {"mixtral": WIDE, "deepseek_v32": {"n_routed_experts": 256, "num_hidden_layers": 3}}


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_in_files_are_mapped_again_and_not_kept_a_second_time(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.models.experts.stored.LEAST_NUMBERS", 0)
    config = replace(SMALL, packed_folder=tmp_path / "packed", products_table=tmp_path / "products.json")
    source, keep = save_model(tmp_path / "source", family, **MIXTURES[family]), Keep.none()
    first: Any = opened(source, keep, config)
    expected, text = logits(first), tokens(first)
    experts = sum(path.stat().st_size for path in tmp_path.glob("packed/*/*.omni"))
    (memory,) = keep._held.values()
    whole = sum(weight_bytes(first.runner.model).values())
    assert experts > whole / 2 and memory.num_bytes < whole - experts / 2
    with monkeypatch.context() as proven:
        proven.setattr("worker.runners.choose.stock_logits", None)  # nothing is proven anew
        second: Any = opened(source, keep, config)
    assert torch.equal(logits(second), expected) and tokens(second) == text
    assert len(list(stored_products(second.runner.model))) == 2
    next(tmp_path.glob("packed/*/*.omni")).unlink()
    assert tokens(opened(source, keep, config)) == text  # all anew


def test_a_restored_engine_holds_its_files_of_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.models.experts.stored.LEAST_NUMBERS", 0)
    config = replace(SMALL, packed_folder=tmp_path / "packed", products_table=tmp_path / "products.json")
    source, keep = save_model(tmp_path / "source", "mixtral", **WIDE), Keep.none()
    engines = [opened(source, keep, config)]
    (packed,) = (tmp_path / "packed").glob("*/")
    for is_restored in (False, True):
        remove_unused(packed)
        assert len(list(packed.glob("*.omni"))) == 2, is_restored
        engines.pop().close()
        gc.collect()
        if not is_restored:
            engines.append(opened(source, keep, config))
    remove_unused(packed)
    assert not packed.exists()


CHANGES: dict[str, Callable[[Path, EngineConfig], EngineConfig]] = {
    "the weights": lambda folder, config: touched(folder / "model.safetensors", config),
    "the tokenizer": lambda folder, config: touched(folder / "tokenizer.json", config),
    "the dtype": lambda folder, config: replace(config, dtype="bfloat16"),
    "the quantization": lambda folder, config: replace(config, quantization=Int8()),
    "the threads": lambda folder, config: replace(config, threads=2),
    "the length": lambda folder, config: replace(config, max_model_len=64),
}


def touched(path: Path, config: EngineConfig) -> EngineConfig:
    os.utime(path, ns=(0, 12345))
    return config


@pytest.mark.parametrize("change", CHANGES)
def test_weights_are_not_found_when_what_they_depend_on_has_changed(change: str, tmp_path: Path) -> None:
    source = save_model(tmp_path, "llama")
    before = kept_name(str(source), SMALL)
    assert before == kept_name(str(source), replace(SMALL, max_num_seqs=2, adapters=(("a", "b"),)))
    assert kept_name(str(source), CHANGES[change](source, SMALL)) != before


def test_nor_with_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_model(tmp_path, "llama")
    before = kept_name(str(source), SMALL)
    monkeypatch.setattr("worker.models.kept.key.code_version", lambda: "another")
    assert kept_name(str(source), SMALL) != before


def test_all_rooms_that_lay_out_kept_memory_are_that_code() -> None:
    worker = ROOT / "worker"
    readers = [path for path in worker.glob("*/**/*.py") if "from worker.kept" in path.read_text()]
    assert {path.relative_to(worker).parts[0] for path in readers} <= set(CODE)


def test_damaged_weights_are_noticed_and_loaded_anew(tmp_path: Path) -> None:
    source, keep = save_model(tmp_path, "llama", **WIDE), Keep.none()
    expected = tokens(opened(source, keep))
    (memory,) = keep._held.values()
    pages = memory.map()
    at = len(pages) // 2
    pages[at : at + 4096] = b"\x3f" * 4096
    assert tokens(opened(source, keep)) == expected
    assert not is_kept(keep)


def test_a_latent_s_matrix_that_is_another_one_is_noticed(tmp_path: Path) -> None:
    source, keep = save_model(tmp_path, "deepseek_v32"), Keep.none()
    engine: Any = opened(source, keep)
    expected = tokens(engine)
    (memory,) = keep._held.values()
    found, key_up = KeptTensors(memory), engine.runner.layers[0].key_up
    (name,) = (name for name in found if found[name].shape == key_up.shape and torch.equal(found[name], key_up))
    found._extents[name].of(memory.map(), found._first).neg_()
    assert tokens(opened(source, keep)) == expected
    assert not is_kept(keep)


def test_a_model_that_cannot_be_restored_is_loaded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, keep = save_model(tmp_path, "llama"), Keep.none()
    expected = tokens(opened(source, keep))

    def lacks_a_buffer(*_: object) -> None:
        raise KeptFault("inv_freq was not kept")

    monkeypatch.setattr("worker.models.loader.put_state", lacks_a_buffer)
    assert tokens(opened(source, keep)) == expected
    assert not is_kept(keep)


def test_a_link_to_nothing_in_the_folder_is_no_fault(tmp_path: Path) -> None:
    source = save_model(tmp_path, "llama")
    before = kept_name(str(source), SMALL)
    (source / ".#README.md").symlink_to("somebody@somewhere.1234")
    assert kept_name(str(source), SMALL) == before


def test_memory_of_another_form_is_not_read(tmp_path: Path) -> None:
    source, keep = save_model(tmp_path, "llama"), Keep.none()
    name = kept_name(str(source), SMALL)
    assert name is not None
    keep.put(keep.create(name, 4096))
    first = tokens(opened(source, keep))
    assert tokens(opened(source, keep)) == first


KILLED = """
from tests.worker.kept.test_engines import *
from worker.kept import tensors
def killed(*args):
    os.kill(os.getpid(), 9)
for where in ("__init__", "put", "finish", None):
    if os.fork() == 0:
        if where is not None:
            setattr(tensors.TensorWriter, where, killed)
        opened(Path({source!r}), keep)
        killed()
    os.wait()
    print(keep.find({name!r}) is not None)
"""


def test_weights_outlive_a_killed_worker_and_no_half_of_them_does(tmp_path: Path) -> None:
    """Killed before, while and after it fills the memory, and when it serves."""
    source = save_model(tmp_path, "llama")
    name = kept_name(str(source), SMALL)
    assert name is not None
    with keeper() as process:
        ended = client(process, KILLED.format(source=str(source), name=name))
        assert ended.stdout.split() == ["False", "False", "False", "True"], ended.stderr
        keep = Keep(process.door_fd)
        assert keep.find(name) is not None
        assert tokens(opened(source, keep)) == tokens(opened(source, None))
