"""Tiny models with random weights, each with a small tokenizer, for tests that need a real architecture."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    DeepseekV32Config,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GenerationConfig,
    Glm4MoeConfig,
    Glm4MoeLiteConfig,
    GlmMoeDsaConfig,
    GPTNeoXConfig,
    GptOssConfig,
    JambaConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoConfig,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

SPECIAL_TOKENS = ["<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXT = ["the quick brown fox jumps over the lazy dog", "a stream of tokens, one at a time", "äöü ß 你好 🙂 12345"]
VOCAB_SIZE = 320
BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": 3,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
# few index heads would give many keys the same score, 0, and leave the choice to chance
INDEX: dict[str, Any] = {"index_n_heads": 16, "index_head_dim": 16, "index_topk": 24}
LINEAR_ATTENTION: dict[str, Any] = {
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
CHUNKED = {
    "intermediate_size_mlp": 64,
    "num_local_experts": 4,
    "head_dim": 8,
    "attention_chunk_size": 16,
    "layer_types": ["chunked_attention", "full_attention"],
}
BY_MASK = {  # their window reaches attention as a mask only
    "sliding_window": 16,
    "use_sliding_window": True,
    "max_window_layers": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
WINDOWED = {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA4 = WINDOWED | {"global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB_SIZE}
FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "mixtral": (MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": (Gemma3TextConfig, WINDOWED),
    "deepseek_v3": (DeepseekV3Config, DEEPSEEK),
    "deepseek_v32": (DeepseekV32Config, DEEPSEEK | INDEX),
    "gpt_oss": (GptOssConfig, WINDOWED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt_neox": (GPTNeoXConfig, {}),
    "phi3": (Phi3Config, {}),
    "mistral": (MistralConfig, {"head_dim": 8, "sliding_window": 16}),
    "olmo": (OlmoConfig, {}),
    "gemma4": (Gemma4TextConfig, GEMMA4),
}
HYBRID_FAMILIES: dict[str, Any] = {  # some layers, or parts of them, keep a state instead of keys and values
    "qwen3_next": (Qwen3NextConfig, LINEAR_ATTENTION),
    "qwen3_5": (Qwen3_5TextConfig, LINEAR_ATTENTION),
    "lfm2": (Lfm2Config, {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64}),
    "falcon_h1": (FalconH1Config, MAMBA | {"mamba_d_ssm": 64}),
    "jamba": (JambaConfig, {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8}),
}
MTP_FAMILIES: dict[str, Any] = {  # besides deepseek_v3; their checkpoints bring a layer that predicts one token more
    "glm4_moe": (
        Glm4MoeConfig,
        {name: value for name, value in DEEPSEEK.items() if "rank" not in name and "qk" not in name}
        | {"num_key_value_heads": 2, "head_dim": 8, "use_qk_norm": True},
    ),
    "glm4_moe_lite": (Glm4MoeLiteConfig, DEEPSEEK | {"mlp_layer_types": ["dense", "sparse"]}),
    "glm_moe_dsa": (GlmMoeDsaConfig, DEEPSEEK | INDEX),
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SPARSE_FAMILIES: dict[str, Any] = {  # besides mixtral, gpt_oss and the DeepSeek family
    "qwen3_moe": (Qwen3MoeConfig, EXPERTS | {"norm_topk_prob": True, "mlp_only_layers": [0]}),
    "olmoe": (OlmoeConfig, {"num_experts": 8, "num_experts_per_tok": 2}),
}
SEQUENTIAL_FAMILIES: dict[str, Any] = {
    "mamba": (MambaConfig, {"state_size": 8, "max_position_embeddings": None}),  # as real ones
    "bloom": (BloomConfig, {"n_layer": 2, "n_head": 4}),
    "llama4_text": (Llama4TextConfig, CHUNKED),
    "qwen2_moe": (Qwen2MoeConfig, BY_MASK),
}


def small_tokenizer() -> Tokenizer:
    """Byte-level BPE: every byte is a token, plus a few merges and four special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    return tokenizer


def save_model(folder: Path, family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Path:
    """Write a random model of this family, and its tokenizer, into `folder`."""
    torch.manual_seed(seed)
    config_class, own = (FAMILIES | HYBRID_FAMILIES | MTP_FAMILIES | SPARSE_FAMILIES | SEQUENTIAL_FAMILIES)[family]
    model = AutoModelForCausalLM.from_config(config_class(**(BASE | own | changes)), dtype=dtype)
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=3, do_sample=False)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small_tokenizer(), eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def save_encoder(folder: Path, **changes: Any) -> Path:
    """Write a random BERT and its tokenizer, which adds tokens around a text and, like many, truncates and pads."""
    torch.manual_seed(0)
    sizes = {name: BASE[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    config = BertConfig(
        **sizes, num_attention_heads=4, max_position_embeddings=64, pad_token_id=3, initializer_range=0.5, **changes
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = small_tokenizer()
    around = [("<|user|>", 1), ("<|assistant|>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<|user|> $A <|assistant|>", None, around)
    tokenizer.enable_padding(pad_id=3, pad_token="<|pad|>")
    tokenizer.enable_truncation(16)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", model_max_length=64).save_pretrained(
        folder
    )
    return folder


def save_cross_encoder(folder: Path, config_class: type[PreTrainedConfig] = BertConfig, **changes: Any) -> Path:
    """Write a random model with one label and its tokenizer, which joins pairs as the real one's does."""
    torch.manual_seed(0)
    sizes = {name: BASE[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    has_types = config_class is BertConfig
    own: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 3, "num_labels": 1}
    config = config_class(**(sizes | own | {"initializer_range": 0.5, "type_vocab_size": 1 + has_types} | changes))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer = small_tokenizer()
    pair = "<|user|> $A <|assistant|> $B:1 <|assistant|>:1" if has_types else "<|user|> $A <|end|> <|end|> $B <|end|>"
    names = [(name, tokenizer.token_to_id(name)) for name in ("<|user|>", "<|assistant|>", "<|end|>")]
    tokenizer.post_processor = processors.TemplateProcessing("<|user|> $A <|assistant|>", pair, names)
    tokenizer.enable_truncation(16)
    reads = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    options: dict[str, Any] = {"pad_token": "<|pad|>", "model_max_length": 60, "model_input_names": reads}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    return folder


def save_pooling(folder: Path, *, is_unit: bool, **config: Any) -> Path:
    """Add the files of sentence-transformers that say how the encoder's tokens become one vector."""
    steps = ["Transformer", "Pooling", *(["Normalize"] if is_unit else [])]
    modules = [
        {"idx": number, "name": str(number), "path": f"{number}_{step}", "type": f"sentence_transformers.models.{step}"}
        for number, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder
