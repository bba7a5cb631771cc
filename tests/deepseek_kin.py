"""Configurations of models that DeepSeek's form was taken over for, as released, for save_deepseek(version=...)."""

from typing import Any

from tests.deepseek import V3, V32

# GLM 5 and, with `index_topk_freq` 4, GLM 5.2, where three of four layers attend to the keys that one before them chose
GLM5: dict[str, Any] = {
    name: value for name, value in V32.items() if name not in ("rope_scaling", "rope_theta", "torch_dtype")
} | {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "dtype": "bfloat16",
    "eos_token_id": [1, 2],
    "head_dim": 8,
    "indexer_rope_interleave": True,
    "model_type": "glm_moe_dsa",
    "n_group": 1,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "qk_head_dim": 24,
    "quantization_config": V3["quantization_config"],
    "rms_norm_eps": 1e-05,
    "rope_interleave": True,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "topk_group": 1,
    "transformers_version": "5.0.2.dev0",
}
