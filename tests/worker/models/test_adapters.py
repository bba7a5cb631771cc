"""PEFT's folders: which layers get which matrices, and what is refused by name."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.adapters import Layers, save_adapter
from worker.models.adapters.folder import Adapter, read_adapter
from worker.models.adapters.peft_config import MAX_RANK, AdapterFault

SHAPES = {f"model.layers.{at}.{name}": (6, 8) for at in (0, 1, 11) for name in ("self_attn.q_proj", "mlp.up_proj")}
FIRST = "model.layers.0.self_attn.q_proj"


def layers(names: Iterable[str] = SHAPES, ranks: Mapping[str, int] = MappingProxyType({})) -> Layers:
    """Of rank 4, or of a name's own rank."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.randn(ranks.get(name, 4), 8, generator=generator),
            torch.randn(6, ranks.get(name, 4), generator=generator),
        )
        for name in names
    }


def read(folder: Path) -> Adapter:
    return read_adapter(str(folder), SHAPES, torch.float32, torch.device("cpu"))


def scale_of(adapter: Adapter, written: Layers, name: str) -> float:
    return float((adapter.layers[name].up / written[name][1].t()).mean())


@pytest.mark.parametrize(("is_stabilized", "scale"), [(False, 16 / 4), (True, 16 / math.sqrt(4))])
def test_the_scale_is_alpha_over_the_rank_or_over_its_root(is_stabilized: bool, scale: float, tmp_path: Path) -> None:
    written = layers()
    adapter = read(save_adapter(tmp_path, written, 4, use_rslora=is_stabilized))
    assert adapter.rank == 4 and adapter.layers.keys() == SHAPES.keys()
    for name, (down, up) in written.items():
        assert torch.equal(adapter.layers[name].down, down)
        assert torch.allclose(adapter.layers[name].up, up.t() * scale)


def test_patterns_set_ranks_and_alphas_of_some_layers(tmp_path: Path) -> None:
    """As in PEFT a pattern matches the end of a name, from a dot on: layer 1 is not layer 11."""
    queries = {name: 8 for name in SHAPES if name.endswith("q_proj")}
    written = layers(ranks=queries | {"model.layers.1.mlp.up_proj": 2})
    folder = save_adapter(
        tmp_path, written, 4, rank_pattern={"layers.1.mlp.up_proj": 2, "q_proj": 8}, alpha_pattern={r"0\..*proj": 32}
    )
    adapter = read(folder)
    assert adapter.rank == 8
    ranks = {name: layer.rank for name, layer in adapter.layers.items()}
    assert ranks["model.layers.1.mlp.up_proj"] == 2 and ranks["model.layers.11.mlp.up_proj"] == 4
    assert scale_of(adapter, written, FIRST) == pytest.approx(32 / 8)
    assert scale_of(adapter, written, "model.layers.11.self_attn.q_proj") == pytest.approx(16 / 8)


@pytest.mark.parametrize(
    ("targets", "num_layers"),
    [
        (["q_proj"], 3),
        (["layers.1.mlp.up_proj", FIRST], 2),
        ("all-linear", 6),
        (r"model\.layers\.\d\.mlp\..*", 2),
        (r".*\.(q|k)_proj", 3),
    ],
)
def test_targets_are_ends_of_names_or_an_expression_of_whole_ones(
    targets: object, num_layers: int, tmp_path: Path
) -> None:
    assert len(read(save_adapter(tmp_path, layers(), 4, target_modules=targets)).layers) == num_layers


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, "kind 'LOHA'"),
        ({"peft_type": None}, "kind"),
        ({"use_dora": True}, "uses DoRA"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"r": MAX_RANK + 1}, "the rank 257; 1 to 256"),
        ({"r": 0}, "the rank 0"),
        ({"r": "many"}, "has an adapter_config.json whose r is no number \\('many'\\)"),
        ({"r": math.inf}, "cannot be understood"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "cannot be understood"),
        ({"lora_alpha": math.nan}, "not finite"),
        ({"lora_alpha": None}, "has an adapter_config.json whose lora_alpha is no number"),
        ({"target_modules": None}, "has an adapter_config.json that names no target_modules"),
        ({"rank_pattern": {"q_proj": "many"}}, "has an adapter_config.json that cannot be understood"),
        ({"target_modules": "("}, "cannot be understood"),
        ({"rank_pattern": {"up_proj": 300}}, "the rank 300"),
        ({"r": 8}, "rank 8"),
        ({"target_modules": ["o_proj"]}, "changes no linear layer"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterFault, match=said):
        read(save_adapter(tmp_path, layers(), 4, **changes))


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 9)}), "embeddings"),
        (lambda t: t.update({"base_model.model.model.embed_tokens.base_layer.weight": torch.ones(9, 8)}), "embeddings"),
        (lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 8)}), "the head"),
        (
            lambda t: t.update({"base_model.model.model.layers.0.x.lora_A.weight": torch.ones(4, 8)}),
            "no part|layers.0.x",
        ),
        (lambda t: t.update({f"base_model.model.{FIRST}.lora_magnitude_vector": torch.ones(8)}), "lora_magnitude"),
        (lambda t: t.pop(f"base_model.model.{FIRST}.lora_B.weight"), "only one of the two"),
        (lambda t: t.update({f"base_model.model.{FIRST}.lora_A.weight": torch.ones(4, 7)}), r"\(4, 7\)"),
        (lambda t: t.update({f"base_model.model.{FIRST}.lora_A.weight": torch.full((4, 8), torch.inf)}), "not finite"),
        (lambda t: t.update({f"base_model.model.{FIRST}.lora_B.weight": torch.full((6, 4), 3e38)}), "too large for"),
        (lambda t: t.update({f"base_model.model.{FIRST}.lora_A.weight": torch.ones(4, 8, dtype=torch.int8)}), "int8"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], object], said: str, tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path, layers(), 4, target_modules=["q_proj", "up_proj", "x"])
    changed(folder, change)
    with pytest.raises(AdapterFault, match=said):
        read(folder)


def test_matrices_of_eight_bits_are_read(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path, layers(), 4)
    name = f"base_model.model.{FIRST}.lora_A.weight"
    changed(folder, lambda tensors: tensors.update({name: torch.ones(4, 8, dtype=torch.float8_e4m3fn)}))
    assert torch.equal(read(folder).layers[FIRST].down, torch.ones(4, 8))


def test_a_layer_that_the_model_lacks_is_named(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path, layers(["model.layers.5.mlp.up_proj"]), 4)
    with pytest.raises(AdapterFault, match=r"changes model\.layers\.5\.mlp\.up_proj, which is no linear layer"):
        read(folder)


def test_files_that_are_missing_or_cut_off_are_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterFault, match="not a folder"):
        read(tmp_path / "none")
    folder = save_adapter(tmp_path / "adapter", layers(), 4)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(AdapterFault, match="cannot be read"):
        read(folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterFault, match=r"adapter_model\.bin is not read"):
        read(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterFault, match=r"adapter_config\.json that cannot be read"):
        read(folder)


def test_the_revision_is_the_content_s(tmp_path: Path) -> None:
    one, same = (read(save_adapter(tmp_path / name, layers(), 4)) for name in ("one", "same"))
    other = read(save_adapter(tmp_path / "other", layers(), 4, alpha=8))
    assert one.revision == same.revision != other.revision
    assert json.loads((tmp_path / "one" / "adapter_config.json").read_text())["r"] == 4


def test_a_config_without_rank_and_alpha_has_those_of_peft(tmp_path: Path) -> None:
    written = layers(ranks=dict.fromkeys(SHAPES, 8))
    folder = save_adapter(tmp_path, written, 8)
    path = folder / "adapter_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("r", "lora_alpha")}
    path.write_text(json.dumps(kept))
    assert scale_of(read(folder), written, FIRST) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "num_absent"),
    [
        ({}, 2),
        ({"layers_to_transform": [0, 1]}, 0),
        ({"layers_to_transform": 11}, 2),
        ({"exclude_modules": ["up_proj"]}, 1),
        ({"exclude_modules": r".*\.11\..*"}, 0),
        ({"target_modules": "all-linear"}, 2),
    ],
)
def test_targets_of_the_base_without_matrices_are_told(
    changes: dict[str, object], num_absent: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [name for name in SHAPES if ".11." not in name]
    read(save_adapter(tmp_path, layers(names), 4, **changes))
    told = [record.getMessage() for record in caplog.records if "no matrices for" in record.getMessage()]
    assert len(told) == bool(num_absent)
    if told:
        assert f"no matrices for {num_absent} of the {num_absent + 4} linear layers" in told[0]
        assert "the first model.layers.11.self_attn.q_proj: they compute as the base" in told[0]
