"""Config fields under the names that families have for them."""

import pytest
from transformers import Gemma4TextConfig, LlamaConfig, MambaConfig, MptConfig

from tests.worker.conftest import Bench, ModelFolder
from worker.models.card import describe
from worker.models.config_fields import USUAL_LENGTH, is_encoder, largest, longest_sequence
from worker.runners.base import ModelRunner


def test_the_largest_value_counts_where_layers_differ() -> None:
    config = Gemma4TextConfig(head_dim=8, global_head_dim=32)
    assert config.is_heterogeneous
    assert largest(config, "head_dim") == 32
    assert largest(LlamaConfig(head_dim=8), "head_dim") == 8
    assert largest(MambaConfig(), "num_attention_heads") is None


def test_the_longest_sequence_is_found_under_each_of_its_names() -> None:
    assert longest_sequence(LlamaConfig(max_position_embeddings=512)) == 512
    assert longest_sequence(MptConfig(max_seq_len=256)) == 256
    assert longest_sequence(MambaConfig()) is None


@pytest.mark.parametrize(
    ("config", "asked", "served"),
    [
        (LlamaConfig(max_position_embeddings=512), None, 512),
        (LlamaConfig(max_position_embeddings=512), 100, 100),
        (LlamaConfig(max_position_embeddings=512), 1000, 512),
        (MambaConfig(), None, USUAL_LENGTH),
        (MambaConfig(), 100_000, 100_000),
    ],
)
def test_a_setting_may_shorten_the_longest_sequence_or_supply_a_missing_one(
    config: object, asked: int | None, served: int, model_folder: ModelFolder
) -> None:
    loaded = Bench(model_folder()).loaded
    generation_config = loaded.model.generation_config
    tokenizer = type("Fast", (), {"backend_tokenizer": loaded.tokenizer, "chat_template": None})()
    tokenizer.special_tokens_map, tokenizer.eos_token_id = {}, 0
    card = describe("somewhere", ("tiny",), tokenizer, config, generation_config, asked)
    assert card.max_model_len == served


def test_a_model_whose_norms_have_no_weights_runs_on_the_ragged_engine(model_folder: ModelFolder) -> None:
    assert type(Bench(model_folder("olmo")).engine.runner) is ModelRunner


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("BertModel", True), ("BertForMaskedLM", True), ("LlamaForCausalLM", False), ("GPT2LMHeadModel", False)],
)
def test_an_encoder_is_told_by_its_architecture(architecture: str, expected: bool) -> None:
    assert is_encoder(LlamaConfig(architectures=[architecture])) == expected
