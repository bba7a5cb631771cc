"""A sparse model of random weights as a GGUF file, whose layers all hold the same numbers, each in its own place."""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.gguf_files import add_configuration, add_tokenizer, named_tensors
from tests.models import CHAT_TEMPLATE, small_tokenizer

WIDTH, INNER, EXPERTS, TOP_K, LAYERS = 2048, 768, 64, 8, 12
ARCHITECTURE = "qwen3moe"


def sparse_config(num_layers: int) -> Qwen3MoeConfig:
    return Qwen3MoeConfig(
        vocab_size=4096, hidden_size=WIDTH, intermediate_size=4 * WIDTH, moe_intermediate_size=INNER,
        num_hidden_layers=num_layers, num_attention_heads=16, num_key_value_heads=4, head_dim=128, num_experts=EXPERTS,
        num_experts_per_tok=TOP_K, norm_topk_prob=True, max_position_embeddings=8192, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=0, pad_token_id=3,
    )  # fmt: skip


def shared_model() -> Qwen3MoeForCausalLM:
    """In bf16; all layers hold the same tensors, which together exceed the processor's cache."""
    torch.manual_seed(0)
    one = AutoModelForCausalLM.from_config(sparse_config(1), dtype=torch.bfloat16)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(sparse_config(LAYERS), dtype=torch.bfloat16)
    state = one.state_dict()
    own = {f"model.layers.{at}.{name.split('.', 3)[3]}": part
           for name, part in state.items() if ".layers.0." in name for at in range(LAYERS)}  # fmt: skip
    whole.load_state_dict(state | own, assign=True)
    whole.model.rotary_emb = one.model.rotary_emb
    whole.eval()
    return whole


def save_sparse_gguf(folder: Path, kind: str) -> Path:
    """The path of the file, with matrices of type `kind`; written unless it is there."""
    path = folder / f"sparse-{kind}.gguf"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small_tokenizer(), eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = sparse_config(1)
    config.vocab_size = len(tokenizer)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.num_hidden_layers = LAYERS
    writer = gguf.GGUFWriter(path.with_suffix(".part"), ARCHITECTURE)
    add_configuration(writer, config, ARCHITECTURE)
    add_tokenizer(writer, folder)
    config.num_hidden_layers = 1
    for name, numbers in named_tensors(model, ARCHITECTURE):
        is_plain = numbers.ndim < 2 or "ffn_gate_inp" in name
        found = numbers if is_plain else encoded(numbers, gguf.GGMLQuantizationType[kind])
        for at in range(LAYERS if name.startswith("blk.0.") else 1):
            own = name.replace("blk.0.", f"blk.{at}.")
            writer.add_tensor(own, found, raw_dtype=None if is_plain else gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").rename(path)
    return path


def encoded(numbers: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """One expert's matrix after the other: a whole layer in float32 would be taken several times."""
    parts = numbers if numbers.ndim == 3 else numbers[None]
    found = np.stack([quantize(part, kind) for part in parts])
    return found if numbers.ndim == 3 else found[0]
