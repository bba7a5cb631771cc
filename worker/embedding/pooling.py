"""From an encoder's hidden states to one vector per input, in the way that the model's files name.

Models made with sentence-transformers name their steps in modules.json. For others a vector is the mean of the tokens'
states, normalized to length 1.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers.utils import cached_file

MODES: Mapping[str, str] = MappingProxyType(
    {
        "cls": "pooling_mode_cls_token",
        "mean": "pooling_mode_mean_tokens",
        "max": "pooling_mode_max_tokens",
        "lasttoken": "pooling_mode_lasttoken",
    }
)
OTHER_MODES = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")


@dataclass(frozen=True, slots=True)
class Pooling:
    """One of MODES; `is_unit`: vectors are normalized to length 1."""

    mode: str = "mean"
    is_unit: bool = True

    def __call__(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """states [B, T, D], mask [B, T] (1: token, 0: padding after them) -> vectors [B, D], float32."""
        states = states.float()
        vectors = self._pooled(states, mask[..., None].to(states.dtype), mask.sum(1))
        return normalize(vectors, dim=-1) if self.is_unit else vectors

    def _pooled(self, states: torch.Tensor, weights: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if self.mode == "cls":
            return states[:, 0]
        if self.mode == "max":
            return states.masked_fill(weights == 0, float("-inf")).amax(1)
        if self.mode == "lasttoken":
            return states[torch.arange(len(states), device=states.device), lengths - 1]
        return (states * weights).sum(1) / weights.sum(1)


def read_pooling(model_path: str) -> Pooling:
    """The pooling that modules.json names. Raises ValueError for an unknown step."""
    modules = read_json(model_path, "modules.json")
    if modules is None:
        return Pooling()
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in modules}
    if unknown := kinds.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise ValueError(f"modules.json names the step {min(unknown)}, which is not known here.")
    if "Pooling" not in kinds:
        raise ValueError("modules.json names no Pooling.")
    mode = mode_of(read_json(model_path, f"{kinds['Pooling']}/config.json") or {})
    return Pooling(mode, is_unit="Normalize" in kinds)


def mode_of(config: dict[str, Any]) -> str:
    """The mode of a Pooling config: a name in newer files, a flag in older ones. Raises ValueError."""
    named = config.get("pooling_mode")
    chosen = [named] if named is not None else [mode for mode, switch in MODES.items() if config.get(switch)]
    if len(chosen) != 1 or chosen[0] not in MODES or any(config.get(switch) for switch in OTHER_MODES):
        raise ValueError(f"its pooling is none of {', '.join(MODES)}.")
    return str(chosen[0])


def read_json(model_path: str, name: str) -> Any:
    """A JSON file of the model's folder or repository; None if there is none of this name."""
    try:
        path = cached_file(model_path, name)
    except OSError:
        return None
    return json.loads(Path(str(path)).read_text())
