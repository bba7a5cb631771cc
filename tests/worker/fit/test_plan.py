"""What `omni fit` works out is what the engine allocates."""

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GptOssConfig, Qwen3MoeConfig

import worker.fit.__main__
from common.settings import DEMO_MODEL, read_settings
from tests.gguf_files import save_gguf
from tests.models import FAMILIES, HYBRID_FAMILIES, save_encoder, save_model
from tests.worker.models.damaged import set_config
from tests.worker.models.formats.packers import awq, gptq
from tests.worker.models.formats.twins import WIDE, save_twins
from worker.fit.checkpoint import parameters, read
from worker.fit.plan import Machine, Plan, plans, this_machine
from worker.fit.survey import shape_of
from worker.kernels.quantized import quantization_named
from worker.models.formats.reader import weight_bytes
from worker.models.loader import EngineConfig, load
from worker.runners.choose import build_runner

LIKE_LLAMA = {"qwen2", "qwen3", "phi3", "olmo"}  # in what their layers keep
ROOM = 32 * 2**20
CPU = EngineConfig(device="cpu", threads=1, kv_memory_bytes=ROOM)
CARD = Machine(torch.device("cuda"), "a GPU", 24 * 2**30, 0)


def planned(folder: Path, machine: Machine | None = None, config: EngineConfig = CPU) -> dict[str, Plan]:
    found = plans(read(str(folder)), machine or this_machine("cpu", None), config)
    return {plan.quantize: plan for plan in found}


def loaded_of(path: Path, config: EngineConfig = CPU) -> Any:
    return load(str(path), ("m",), config, lambda what, share: None)


def live_bytes() -> int:
    """Of all tensors in memory, oneDNN's packed ones too."""
    gc.collect()
    sizes = {}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor) and found.is_mkldnn:
            sizes[id(found)] = found.numel() * found.element_size()
        elif issubclass(type(found), torch.Tensor) and found.device.type == "cpu":
            sizes[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
    return sum(sizes.values())


@pytest.mark.parametrize("quantize", ["", "int8", "int4"])
def test_weights_and_cache_of_the_demo_model_are_those_of_the_engine(quantize: str) -> None:
    plan = planned(DEMO_MODEL)[quantize]
    before = live_bytes()
    config = replace(CPU, quantization=quantization_named(quantize))
    loaded = loaded_of(DEMO_MODEL, config)
    runner, limits = build_runner(loaded, config)
    pools = (*runner.kv_cache.keys, *runner.kv_cache.values)  # with room to grow, which takes no memory
    cache = sum(pool.numel() * pool.element_size() for pool in pools)
    assert plan.kv_per_token * plan.num_tokens == limits.kv_bytes(limits.num_blocks)
    assert cache == limits.kv_bytes(limits.capacity)
    assert (plan.context, plan.num_tokens) == (limits.max_model_len, limits.num_blocks * limits.block_size)
    assert plan.weights == pytest.approx(live_bytes() - before - cache, rel=0.02)


def test_without_a_given_size_the_cache_is_as_large_as_the_engines() -> None:
    config = replace(CPU, kv_memory_bytes=None)
    _, limits = build_runner(loaded_of(DEMO_MODEL, config), config)
    assert planned(DEMO_MODEL, config=config)[""].num_tokens == limits.num_blocks * limits.block_size


@pytest.mark.parametrize("family", sorted({*FAMILIES, *HYBRID_FAMILIES} - LIKE_LLAMA))
def test_keys_and_values_of_each_family_are_those_that_its_forward_pass_shows(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path, family)
    loaded = loaded_of(folder)
    taken = sum(weight_bytes(loaded.model).values())
    runner, _ = build_runner(loaded, CPU)
    assert shape_of(read(str(folder)).model).layers == list(runner.kv_cache.shapes)
    assert planned(folder, CARD)[""].weights * 2 == taken  # float32 here


def test_only_models_whose_products_are_ours_are_quantized(tmp_path: Path) -> None:
    assert planned(DEMO_MODEL, CARD).keys() == {"", "int8", "int4", "fp8"}
    assert planned(save_model(tmp_path / "sparse", "mixtral"), CARD).keys() == {"", "int8", "int4", "fp8"}
    assert planned(save_model(tmp_path / "other", "gpt_neox"), CARD).keys() == {""}


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_experts_take_what_the_engine_s_do(
    family: str, quantize: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path, family, hidden_size=128, intermediate_size=128)
    config = replace(CPU, quantization=quantization_named(quantize))
    whole = planned(folder)[quantize].weights
    loaded = loaded_of(folder, config)
    runner: Any = build_runner(loaded, config)[0]
    experts = sum(layer.mlp.experts.num_bytes for layer in runner.layers)
    monkeypatch.setattr("worker.fit.plan.expert_matrices", lambda _: [])
    numbers = sum(each.numel() for each in read(str(folder)).model.parameters() if each.dim() == 3)
    assert whole == pytest.approx(
        planned(folder)[quantize].weights - loaded.dtype.itemsize * numbers + experts, rel=0.01
    )


@pytest.mark.parametrize(
    ("pack", "packing"),
    [
        (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}),
        (partial(gptq, bits=8), {"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": False, "sym": True}),
        (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
    ],
)
def test_packed_weights_take_what_their_files_headers_say(pack: Any, packing: dict[str, Any], tmp_path: Path) -> None:
    packed, _ = save_twins(tmp_path, "llama", pack, packing)
    taken = sum(weight_bytes(loaded_of(packed).model).values())
    assert planned(packed)[""].weights == pytest.approx(taken, rel=0.02)
    (packed / "model.safetensors").unlink()  # then the configuration has to do
    assert planned(packed)[""].weights == pytest.approx(taken, rel=0.1)
    assert planned(packed).keys() == {""}


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q6_K", "F16"])
def test_gguf_weights_take_what_the_header_says(kind: str, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", save_model(tmp_path / "model", "llama", **WIDE), "llama", kind)
    taken = sum(weight_bytes(loaded_of(path).model).values())
    assert planned(path)[""].weights == pytest.approx(taken, rel=0.02)


def test_what_does_not_fit_says_how_much_is_missing() -> None:
    whole = planned(DEMO_MODEL, CARD, EngineConfig())[""]
    assert not whole.missing and whole.streams == 256 and whole.workspace > 2**30
    block = 2 * 64 * whole.kv_per_token  # the least: a block, and that of padding rows
    least = whole.weights + whole.workspace + block
    for lacking in (0, 1, 5 * 2**20):
        small = replace(CARD, total=-(-(least - lacking) // 9 * 10) + 10)
        plan = planned(DEMO_MODEL, small, EngineConfig())[""]
        assert plan.missing == pytest.approx(lacking, abs=20) and bool(plan.missing) == bool(lacking > 20), lacking
    used = planned(DEMO_MODEL, replace(CARD, used=CARD.total), EngineConfig())[""]
    assert used.missing > 2**30 and used.why == "the weights"


def test_weights_that_are_packed_at_load_must_fit_before() -> None:
    """The GPU holds them as they are in the file until the engine packs them."""
    whole = planned(DEMO_MODEL, CARD, EngineConfig())
    free = whole[""].weights - 2**20
    tight = planned(DEMO_MODEL, replace(CARD, used=CARD.total - free), EngineConfig())["int4"]
    assert tight.missing >= 2**20


def test_a_context_that_is_asked_for_must_fit() -> None:
    config = replace(CPU, max_model_len=2048, kv_memory_bytes=2**20)
    plan = planned(DEMO_MODEL, config=config)[""]
    assert plan.missing == 2048 * plan.kv_per_token - 2**20


def test_parameters_are_told_by_kind(tmp_path: Path) -> None:
    Qwen3MoeConfig(num_hidden_layers=2, num_experts=8).save_pretrained(tmp_path)
    found = parameters(read(str(tmp_path)))
    assert found["experts"] == 2 * 8 * 3 * 768 * 2048 and found["embeddings"] == found["head"] == 151_936 * 2048


def test_a_gpt_oss_20b_needs_at_most_16_gb_for_its_weights(tmp_path: Path) -> None:
    packing = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    config = GptOssConfig(num_hidden_layers=24, num_local_experts=32, dtype="bfloat16", quantization_config=packing)
    config.save_pretrained(tmp_path)
    plan = planned(tmp_path, CARD, EngineConfig())[""]
    assert 13e9 < plan.weights < 14e9 and not plan.missing


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an encoder \(BertModel\)"):
        read(str(save_encoder(tmp_path)))


def test_a_name_that_stands_for_nothing_here_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    for name, said in (
        (str(tmp_path), "no config.json"),
        (str(tmp_path / "adapter"), "a LoRA adapter; name its base model"),
        ("/nowhere/at/all", "there is no such folder"),
        ("nobody/nothing", "nor is it in the hub's cache. Download it first: omni models pull nobody/nothing"),
        ("deepsek-r1", "Did you mean deepseek-r1?"),
        ("nothing-near", "or one of deepseek-v3.2, "),
    ):
        with pytest.raises(ValueError, match=said):
            read(name)


def test_a_folder_that_is_no_model_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m-00001-of-00003.gguf").touch()
    monkeypatch.setattr("sys.argv", ["fit", str(tmp_path)])
    monkeypatch.setattr(worker.fit.__main__, "prepare_process", lambda: None)
    with pytest.raises(SystemExit):
        worker.fit.__main__.main()
    said = f"configuration: {tmp_path}: of its 3 parts 2 are not there, the first m-00002-of-00003.gguf; copy them too."
    assert capsys.readouterr().err.splitlines() == [said]


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "qwen3_moe")
    set_config(folder, num_local_experts=16)
    with pytest.raises(ValueError, match=r"is model.layers.1.mlp.gate.weight: \[8, 32\] in the file, \[16, 32\] by"):
        read(str(folder))
    set_config(folder, num_local_experts=8)
    assert read(str(folder)).has_weights
    (folder / "model.safetensors").rename(folder / "model-00002-of-00005.safetensors")
    with pytest.raises(ValueError, match="there are no weights in that folder"):
        read(str(folder))


def test_packed_weights_are_refused_with_a_quantization_as_at_a_start(tmp_path: Path) -> None:
    packing = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    packed, _ = save_twins(tmp_path, "llama", gptq, packing)
    with pytest.raises(ValueError, match=r"OMNI_QUANTIZE=int8 is for weights that are not packed, these are by 'gptq'"):
        worker.fit.__main__.report(str(packed), None, read_settings({"OMNI_QUANTIZE": "int8"}))
