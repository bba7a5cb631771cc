"""Models that `omni fit` knows by name, before anything of them is fetched: what their releases' config.json have."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transformers import AutoConfig

FP8_BLOCKS = MappingProxyType({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})
MXFP4 = MappingProxyType({"quant_method": "mxfp4"})
INT4_EXPERTS = MappingProxyType(
    {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "group_size": 32, "strategy": "group", "type": "int"}}
        },
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    }
)
KIMI_K2 = MappingProxyType(
    {
        "vocab_size": 163840,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "n_routed_experts": 384,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "max_position_embeddings": 262144,
    }
)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A release: its hub id, and what its config.json has other than its family in transformers."""

    hub_id: str
    family: str
    fields: Mapping[str, Any]
    packing: Mapping[str, Any] | None = None

    def config(self) -> Any:
        more = {} if self.packing is None else {"quantization_config": dict(self.packing)}
        config = AutoConfig.for_model(self.family, **self.fields, **more, dtype="bfloat16")
        config.name_or_path = self.hub_id
        return config


KNOWN: Mapping[str, KnownModel] = MappingProxyType(
    {
        "deepseek-v3.2": KnownModel(
            "deepseek-ai/DeepSeek-V3.2", "deepseek_v32", {"num_nextn_predict_layers": 1}, FP8_BLOCKS
        ),
        "deepseek-r1": KnownModel(
            "deepseek-ai/DeepSeek-R1", "deepseek_v3", {"max_position_embeddings": 163840}, FP8_BLOCKS
        ),
        "kimi-k2": KnownModel("moonshotai/Kimi-K2-Instruct-0905", "deepseek_v3", KIMI_K2, FP8_BLOCKS),
        "kimi-k2-thinking": KnownModel("moonshotai/Kimi-K2-Thinking", "deepseek_v3", KIMI_K2, INT4_EXPERTS),
        "glm-5": KnownModel("zai-org/GLM-5-FP8", "glm_moe_dsa", {"num_nextn_predict_layers": 1}, FP8_BLOCKS),
        "gpt-oss-120b": KnownModel("openai/gpt-oss-120b", "gpt_oss", {}, MXFP4),
        "qwen3-235b": KnownModel(
            "Qwen/Qwen3-235B-A22B-Instruct-2507",
            "qwen3_moe",
            {
                "hidden_size": 4096,
                "intermediate_size": 12288,
                "moe_intermediate_size": 1536,
                "num_hidden_layers": 94,
                "num_attention_heads": 64,
                "head_dim": 128,
                "max_position_embeddings": 262144,
            },
        ),
        "glm-4.5-air": KnownModel(
            "zai-org/GLM-4.5-Air",
            "glm4_moe",
            {"attention_bias": True, "head_dim": 128, "num_nextn_predict_layers": 1},
        ),
    }
)


def known_model(name: str) -> KnownModel | None:
    """By our name, or the hub id; in any case of letters."""
    wanted = name.lower()
    return next((known for key, known in KNOWN.items() if wanted in (key, known.hub_id.lower())), None)
