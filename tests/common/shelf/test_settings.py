"""OMNI_MODELS among the settings."""

from pathlib import Path

import pytest

from common.settings import DEMO_MODEL, SettingsError, read_settings

TEXT = '[[model]]\nids = ["omni-demo", "b"]\nmodel = "demo"\n[[model]]\nid = "c"\nmodel = "demo"\n'


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "models.toml"
    path.write_text(TEXT)
    return str(path)


def test_the_models_of_the_table_are_settings(table: str) -> None:
    settings = read_settings({"OMNI_MODELS": table, "OMNI_MAX_MODEL_LEN": "64"})
    assert [model.ids for model in settings.models] == [("omni-demo", "b"), ("c",)]
    own = settings.models[0].settings_over(settings.model)
    assert (own.queue, own.source, own.max_model_len) == ("omni-demo", str(DEMO_MODEL), 64)


def test_without_a_table_there_are_none() -> None:
    assert read_settings({}).models == read_settings({"OMNI_MODELS": ""}).models == ()


@pytest.mark.parametrize(
    ("name", "value", "todo"),
    [
        ("OMNI_MODEL", "demo", "write model into TABLE, and remove OMNI_MODEL."),
        ("OMNI_MODEL_NAME", "a", "write ids into TABLE, and remove OMNI_MODEL_NAME."),
        ("OMNI_ADAPTERS", "a=/x", "write adapters into TABLE, and remove OMNI_ADAPTERS."),
        ("OMNI_DRAFT_MODEL", "demo", "write draft into TABLE, and remove OMNI_DRAFT_MODEL."),
        ("OMNI_QUANTIZE", "int8", "write quantize into TABLE, and remove OMNI_QUANTIZE."),
        ("OMNI_ENGINE", "vllm+http://h:1", "give that model a service of its own."),
        ("OMNI_TENSOR_PARALLEL", "2", "give that model a service of its own."),
    ],
)
def test_settings_of_one_model_do_not_go_with_a_table(name: str, value: str, todo: str, table: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"OMNI_MODELS": table, name: value})
    assert str(caught.value) == f"OMNI_MODELS does not go with {name}: {todo.replace('TABLE', table)}"


def test_their_defaults_do(table: str) -> None:
    assert read_settings({"OMNI_MODELS": table, "OMNI_TENSOR_PARALLEL": "1", "OMNI_MODEL_NAME": ""}).models


def test_a_bad_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no such file; make it with omni models add\.$"):
        read_settings({"OMNI_MODELS": str(tmp_path / "none.toml")})


def test_an_encoder_beside_the_table_has_another_name(table: str) -> None:
    assert read_settings({"OMNI_MODELS": table, "OMNI_EMBEDDING_MODEL": "/x/bge"}).embedding.names == ("bge",)
    with pytest.raises(SettingsError, match="OMNI_MODELS and OMNI_EMBEDDING_MODEL both name 'c'; leave one of them"):
        read_settings({"OMNI_MODELS": table, "OMNI_EMBEDDING_MODEL": "/x/c"})
