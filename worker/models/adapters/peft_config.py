"""adapter_config.json: what of PEFT's LoRA is computed here, and the refusal of the rest by name."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

CONFIG_FILE = "adapter_config.json"
MAX_RANK = 256
RANK, ALPHA = 8, 8.0  # of PEFT, where the file says none
ALL_LINEAR = "all-linear"
# Settings that change what is computed, if they are set.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "use_dora": "DoRA",
        "modules_to_save": "whole modules beside the adapter (modules_to_save)",
        "trainable_token_indices": "new embeddings (trainable_token_indices)",
        "lora_bias": "biases of the adapter (lora_bias)",
        "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
        "layer_replication": "repeated layers (layer_replication)",
        "target_parameters": "experts and other bare parameters (target_parameters)",
        "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
        "use_qalora": "QALoRA",
        "use_bdlora": "BD-LoRA",
        "arrow_config": "Arrow",
        "kasa_config": "KaSA",
        "monteclora_config": "MonteCLoRA",
        "megatron_config": "Megatron's layers (megatron_config)",
    }
)
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of init_lora_weights


Names = str | tuple[str, ...]  # a regular expression of whole names, or names and their ends


class AdapterFault(ValueError):
    """A folder that cannot be served as an adapter of this model: one sentence without a subject."""


class GivenAdapterFault(ValueError):
    """An adapter of the configuration cannot be served."""

    def __init__(self, name: str, path: str, fault: AdapterFault) -> None:
        super().__init__(f"the adapter {name}={path} {fault}.")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The part of the file that is computed."""

    rank: int
    alpha: float
    is_rank_stabilized: bool
    targets: Names
    ranks: Mapping[str, int]  # by a pattern of the name's end
    alphas: Mapping[str, float]
    excluded: Names
    only_layers: frozenset[int] | None  # of the targets that are ends of names

    def rank_of(self, name: str) -> int:
        return int(self.ranks.get(pattern_of(self.ranks, name), self.rank))

    def scale_of(self, name: str) -> float:
        """What an adapter's change of this linear layer is multiplied by."""
        rank = self.rank_of(name)
        alpha = self.alphas.get(pattern_of(self.alphas, name), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def has_target(self, name: str) -> bool:
        """True if PEFT would give this linear layer an adapter."""
        return self.targets == ALL_LINEAR or matches(self.targets, name)

    def should_hold(self, name: str) -> bool:
        """True if a file that PEFT has saved has matrices of this linear layer of the base."""
        if matches(self.excluded, name) or not self.has_target(name):
            return False
        if self.only_layers is None or isinstance(self.targets, str) or name in self.targets:
            return True
        number = re.search(r"\.(\d+)\.", name)
        return number is not None and int(number[1]) in self.only_layers


def matches(names: Names, name: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in names)


def names_of(given: Any) -> Names:
    return given if isinstance(given, str) else tuple(map(str, given))


def number_in(raw: Mapping[str, Any], field: str, default: float) -> float:
    value = raw.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AdapterFault(f"has an {CONFIG_FILE} whose {field} is no number ({value!r})")
    return value


def pattern_of(patterns: Iterable[str], name: str) -> str:
    """The first pattern that is the name's end, from a dot on; the name itself if none is."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", name)), name)


def read_config(folder: Path) -> PeftConfig:
    """Raises AdapterFault for what is not a LoRA adapter, or has parts that are not computed here."""
    try:
        raw = json.loads((folder / CONFIG_FILE).read_bytes())
    except FileNotFoundError:
        raise AdapterFault(f"has no {CONFIG_FILE}: name a folder as PEFT saves it") from None
    except (OSError, ValueError) as error:
        raise AdapterFault(f"has an {CONFIG_FILE} that cannot be read ({error})") from error
    if not isinstance(raw, dict):
        raise AdapterFault(f"has an {CONFIG_FILE} that is no JSON object")
    check_kind(raw)
    try:
        config = config_of(raw)
        for name in ("", *config.ranks):
            check_rank(config.rank_of(name) if name else config.rank)
        config.has_target("")
        pattern_of([*config.ranks, *config.alphas], "")
    except AdapterFault:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, re.error) as error:
        raise AdapterFault(
            f"has an {CONFIG_FILE} that cannot be understood ({type(error).__name__}: {error})"
        ) from error
    return config


def check_kind(raw: Mapping[str, Any]) -> None:
    """Raises AdapterFault for the first part that is not computed here."""
    if (kind := str(raw.get("peft_type", "")).rpartition(".")[2]) != "LORA":
        raise AdapterFault(f"is an adapter of the kind {kind or 'unknown'!r}; LoRA is served")
    for field, what in REFUSED.items():
        if raw.get(field):
            raise AdapterFault(f"uses {what}, which is not served")
    if raw.get("bias", "none") != "none":
        raise AdapterFault(f"trains biases (bias={raw['bias']!r}), which is not served; only 'none' is")
    start = raw.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGED_BASE):
        raise AdapterFault(
            f"was made with init_lora_weights={start!r}, which changes the base's weights too; convert it with PEFT's "
            "path_initial_model_for_weight_conversion"
        )


def config_of(raw: Mapping[str, Any]) -> PeftConfig:
    targets, layers = raw.get("target_modules"), raw.get("layers_to_transform")
    if not targets:
        raise AdapterFault(f"has an {CONFIG_FILE} that names no target_modules")
    return PeftConfig(
        rank=int(number_in(raw, "r", RANK)),
        alpha=number_in(raw, "lora_alpha", ALPHA),
        is_rank_stabilized=bool(raw.get("use_rslora")),
        targets=names_of(targets),
        ranks={str(name): int(rank) for name, rank in (raw.get("rank_pattern") or {}).items()},
        excluded=names_of(raw.get("exclude_modules") or ()),
        only_layers=None if layers is None else frozenset(map(int, layers if isinstance(layers, list) else [layers])),
        alphas={str(name): float(alpha) for name, alpha in (raw.get("alpha_pattern") or {}).items()},
    )


def check_rank(rank: int) -> None:
    if not 1 <= rank <= MAX_RANK:
        raise AdapterFault(f"has the rank {rank}; 1 to {MAX_RANK} are served")
