"""Finds out whether a model attends over latents, and how each of its layers does."""

from typing import Any

import torch

from worker.attention.latent.index_keys import index_shape
from worker.attention.latent.spec import LatentSpec
from worker.runners.layer_survey import LayerSurvey
from worker.state.kv_cache import LayerShape

# Types of models whose attention is computed as DeepSeek's. Others have the same parts and do something more, at
# positions that no probe reaches.
FAMILIES = frozenset({"deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "youtu"})


def survey_latents(model: Any, max_model_len: int, dtype: torch.dtype) -> LayerSurvey | None:
    """None for other models. `dtype`: that the model runs in. Nothing is computed."""
    config = model.config
    if config.model_type not in FAMILIES:
        return None
    layers = LayerSurvey(max_model_len, num_layers=config.num_hidden_layers)
    for layer_idx, layer in enumerate(model.get_decoder().layers):
        attention = layer.self_attn
        index = getattr(attention, "indexer", None)
        values = (0, None) if index is None else index_shape(index.head_dim, dtype)
        rank = attention.kv_lora_rank
        spec = LatentSpec(scale=attention.scaling, rank=rank, topk=None if index is None else index.index_topk)
        layers.found[layer_idx] = LayerShape(1, rank + attention.qk_rope_head_dim, *values), spec
    return layers
