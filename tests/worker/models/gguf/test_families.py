"""Models of every architecture that is read, written as GGUF files by the gguf package's own names of tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from common.model.gguf_header import read_header
from tests.gguf_files import save_gguf
from tests.models import BASE, CHAT_TEMPLATE, small_tokenizer
from worker.models.gguf.families import FAMILIES
from worker.models.gguf.model import gguf_model
from worker.models.gguf.tensors import stored_name

SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {  # architecture -> model type, changes
    "llama": ("llama", {"head_dim": 16}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen2moe": ("qwen2_moe", SPARSE | {"shared_expert_intermediate_size": 32}),
    "qwen3moe": ("qwen3_moe", SPARSE | {"head_dim": 16, "norm_topk_prob": True}),
    "gemma": ("gemma", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": (
        "gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "tie_word_embeddings": True},
    ),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "tie_word_embeddings": True},
    ),
    "phi3": ("phi3", {"sliding_window": None}),
    "starcoder2": ("starcoder2", {}),
    "granite": (
        "granite",
        {"attention_multiplier": 0.25, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    ),
    "olmo2": ("olmo2", {}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
}


def saved(folder: Path, model_type: str, **changes: Any) -> Path:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**(BASE | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.2)  # norms and biases too: a model's own are all alike
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=3)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small_tokenizer(), eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(torch.arange(4, 44)[None]).logits[0]


@pytest.mark.parametrize("architecture", [name for name in FAMILIES if name != "mistral"])
def test_a_file_has_the_logits_of_the_model_that_it_was_made_of(architecture: str, tmp_path: Path) -> None:
    model_type, changes = MODELS[architecture]
    folder = saved(tmp_path / "model", model_type, **changes)
    source = gguf_model(str(save_gguf(tmp_path / "tiny.gguf", folder, architecture)))
    assert source is not None
    model, info = source.load(AutoModelForCausalLM, torch.float32)
    assert not any(info.values())
    names = {stored_name(name, FAMILIES[architecture]) for name, _ in model.named_parameters()}
    assert names <= {tensor.name for tensor in read_header(tmp_path / "tiny.gguf").tensors}
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    assert torch.allclose(logits(model), expected, atol=1e-4), (logits(model) - expected).abs().max()
