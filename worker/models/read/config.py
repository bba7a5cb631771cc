"""A model's configuration, also of types that transformers has under another name."""

from types import MappingProxyType
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

# types that config.json names -> the type that they are computed as: its layers, by the same names
SAME = MappingProxyType({"kimi_k2": "deepseek_v3"})


def read_config(model_path: str, **options: Any) -> Any:
    """`options`: from_pretrained's. No code of the model's is run. Raises OSError or ValueError."""
    fields, _ = PreTrainedConfig.get_config_dict(model_path, **options)
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if not isinstance(kind, str | None):
        raise ValueError(f"its config.json has model_type={kind!r}, and that is a name such as 'llama'; copy it again.")
    if (own := SAME.get(kind or "")) is None:
        return AutoConfig.from_pretrained(model_path, **options)
    fields.pop("auto_map", None)
    config = CONFIG_MAPPING[own].from_dict({**fields, "model_type": own})
    config.name_or_path = model_path
    return config
