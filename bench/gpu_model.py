"""Models of random weights made on the device, for bench.gpu: nothing is downloaded and nothing read from a disk."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig

from common.wire import ModelCard
from worker.models.loader import LoadedModel

LONGEST = 32_768  # tokens of prompt
CONTEXT = LONGEST + 4096
WEIGHT_SIZE = 1.28  # of weights, times the root of the width: 0.02 at 4096
CHANGE = 3.0  # of what the layers add, times their number: a tenth each of 32
SMALL = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
SHAPES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "8b": {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 32,
        },
        "tiny": SMALL | {"num_key_value_heads": 2, "num_hidden_layers": 2},  # to try the script itself
    }
)


def random_model(shape: str, device: torch.device, dtype: torch.dtype, num_layers: int | None = None) -> Any:
    """The same weights each time.

    Large embeddings and small changes of each layer, as in trained models: with weights of one size, the rounding
    errors of bf16 grow from layer to layer until no two ways to run the model agree.
    """
    torch.manual_seed(0)
    sizes = dict(SHAPES[shape])
    sizes["num_hidden_layers"] = num_layers or sizes["num_hidden_layers"]
    config = LlamaConfig(
        **sizes,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=WEIGHT_SIZE / sizes["hidden_size"] ** 0.5,
        eos_token_id=0,
        bos_token_id=None,
    )
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    model.model.embed_tokens.weight.normal_()
    for layer in model.model.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.mul_(CHANGE / len(model.model.layers))
    return model


def as_loaded(model: Any, device: torch.device, max_model_len: int) -> LoadedModel:
    """As worker.models.loader returns it. Its tokenizer knows 256 tokens."""
    tokenizer = Tokenizer(models.BPE({chr(256 + at): at for at in range(256)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    card = ModelCard(
        queue="bench",
        names=("bench",),
        root="random",
        revision="0",
        architecture="llama",
        max_model_len=max_model_len,
        vocab_size=model.config.vocab_size,
        created=int(time.time()),
        tokenizer=tokenizer.to_str(),
        chat_template=None,
    )
    return LoadedModel(model, tokenizer, card, device, model.dtype)
