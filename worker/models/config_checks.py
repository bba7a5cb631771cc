"""Checks of an EngineConfig that a program makes. The service checks its settings, to the same ranges."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from reprlib import repr as shown
from types import MappingProxyType
from typing import Any, NoReturn

from worker.device import NoSuchDevice, choose_device
from worker.kernels.quantized import QUANTIZATIONS, Quantization, quantization_named
from worker.models.loader import FP8_KV, EngineConfig, check_kv_dtype

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
SETTING = re.compile(r"OMNI_([A-Z_]+)")
FIELDS = MappingProxyType({"QUANTIZE": "quantization", "TENSOR_PARALLEL": "num_ranks"})  # others have the same name


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers that a field may have."""

    least: float
    most: float | None = None
    is_whole: bool = True
    is_above: bool = False  # `least` itself is not allowed
    may_be_none: bool = False

    def checked(self, name: str, value: Any) -> Any:
        """The value as an int or a float of Python's. Raises TypeError or ValueError."""
        if value is None and self.may_be_none:
            return None
        is_of_kind = isinstance(value, Integral if self.is_whole else Real)  # numpy's numbers too
        if isinstance(value, bool) or not is_of_kind:
            raise TypeError(f"{name}={shown(value)}: it must be {self.allowed}.")
        is_low = value <= self.least if self.is_above else value < self.least
        if value != value or is_low or (self.most is not None and value > self.most):
            raise ValueError(f"{name}={shown(value)}: it must be {self.allowed}.")
        return int(value) if self.is_whole else float(value)

    @property
    def allowed(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        if self.is_above:
            limits = f"above {self.least}" + (f" and up to {self.most}" if self.most is not None else "")
        else:
            limits = f"from {self.least} to {self.most}" if self.most is not None else f"of at least {self.least}"
        return f"{kind} {limits}" + (", or None" if self.may_be_none else "")


NUMBERS: Mapping[str, Numbers] = MappingProxyType(
    {
        "max_num_seqs": Numbers(1, 4096, may_be_none=True),
        "max_model_len": Numbers(16, may_be_none=True),
        "max_step_tokens": Numbers(1, may_be_none=True),
        "threads": Numbers(1, 1024, may_be_none=True),
        "gpu_memory_utilization": Numbers(0, 1, is_whole=False, is_above=True),
        "speculate": Numbers(0, 16),
        "kv_memory_bytes": Numbers(1, may_be_none=True),
        "num_ranks": Numbers(1),
    }
)
CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dtype": ("auto", "float32", "bfloat16", "float16"),
        "kv_dtype": ("auto", FP8_KV),
        "experts": ("auto", "gpu", "ram"),
    }
)


def checked_config(config: EngineConfig | None) -> EngineConfig:
    """The configuration with `quantization` by name and paths as text made what the engine takes.

    Raises TypeError or ValueError that names the field, also for what the device cannot do.
    """
    config = EngineConfig() if config is None else config
    if not isinstance(config, EngineConfig):
        raise TypeError(f"config={shown(config)}: it must be an EngineConfig, or None.")
    numbers = {
        name: allowed.checked(f"EngineConfig.{name}", getattr(config, name)) for name, allowed in NUMBERS.items()
    }
    if numbers["num_ranks"] > 1:
        raise ValueError(f"EngineConfig.num_ranks={config.num_ranks}: the library runs a model in one process.")
    for name, choices in CHOICES.items():
        if getattr(config, name) not in choices:
            refuse(config, name, f"{', '.join(choices[:-1])} or {choices[-1]}")
    overlap: object = config.overlap
    if not isinstance(overlap, bool | None):
        refuse(config, "overlap", "True, False or None")
    if not isinstance(config.device, str) or not DEVICE.fullmatch(config.device):
        refuse(config, "device", "auto, cpu, cuda or cuda:N")
    draft: object = config.draft_model
    if not isinstance(draft, str | Path):
        refuse(config, "draft_model", "a folder or hub id, or empty")
    table: object = config.products_table
    if not isinstance(table, str | Path | None):
        refuse(config, "products_table", "a file's path, or None")
    packed: object = config.packed_folder
    if not isinstance(packed, str | Path | None):
        refuse(config, "packed_folder", "a folder's path, or None")
    config = replace(
        config,
        **numbers,
        adapters=checked_adapters(config),
        quantization=checked_quantization(config),
        draft_model=str(draft),
        products_table=None if table is None else Path(str(table)),
        packed_folder=None if packed is None else Path(str(packed)),
    )
    check_device(config)
    return config


def checked_adapters(config: EngineConfig) -> tuple[tuple[str, str], ...]:
    """Raises TypeError or ValueError for what are no pairs of a name and a folder, each name once."""
    given: object = config.adapters
    pairs = (
        [tuple(pair) if isinstance(pair, list | tuple) else () for pair in given]
        if isinstance(given, list | tuple)
        else [()]
    )
    if not all(len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str | Path) for pair in pairs):
        refuse(config, "adapters", "pairs of a name and a folder")
    found = {str(name): str(path) for name, path in pairs}
    if len(found) < len(pairs):
        refuse(config, "adapters", "pairs of a name and a folder, each name once")
    return tuple(found.items())


def refuse(config: EngineConfig, name: str, allowed: str) -> NoReturn:
    value = getattr(config, name)
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"EngineConfig.{name}={shown(value)}: it must be {allowed}.")


def checked_quantization(config: EngineConfig) -> Quantization | None:
    """Raises TypeError or ValueError for what is neither a Quantization nor the name of one."""
    given: object = config.quantization
    names = tuple(kind.name for kind in QUANTIZATIONS)
    if given is None or isinstance(given, Quantization):
        return given
    if not isinstance(given, str) or given not in ("", *names):
        refuse(config, "quantization", f"{', '.join(names)}, a Quantization or None")
    return quantization_named(str(given))


def check_device(config: EngineConfig) -> None:
    """Raises ValueError for a device that is not there, or one that has no such products or KV cache."""
    try:
        device = choose_device(config.device)
        if config.quantization is not None:
            config.quantization.check(config.dtype, device)
        check_kv_dtype(config, device)
    except NoSuchDevice as error:
        raise ValueError(f"EngineConfig.device={config.device}: {error}") from None
    except ValueError as error:
        raise ValueError(with_fields(str(error))) from None


def with_fields(text: str) -> str:
    """A message for the service's operator with EngineConfig's fields in place of settings."""
    return SETTING.sub(lambda found: f"EngineConfig.{FIELDS.get(found[1], found[1].lower())}", text)
