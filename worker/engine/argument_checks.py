"""Checks of what callers of the library pass. The service's settings and API have checks of their own.

All functions raise TypeError or ValueError, which name the field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from common.wire import SamplingParams
from worker.models.loader import FP8_KV, EngineConfig

TINY = 1e-6  # least value of what must be above 0


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers that a field may have."""

    least: float
    most: float | None = None
    is_whole: bool = True
    may_be_none: bool = False

    def check(self, name: str, value: Any) -> None:
        if value is None and self.may_be_none:
            return
        is_of_kind = isinstance(value, Integral if self.is_whole else Real)  # numpy's numbers too
        if isinstance(value, bool) or not is_of_kind:
            raise TypeError(f"{name}={value!r}: it is {'an int' if self.is_whole else 'a number'}.")
        is_number = self.is_whole or isfinite(value)
        if not is_number or value < self.least or (self.most is not None and value > self.most):
            allowed = f"{self.least:g} or more" if self.most is None else f"from {self.least:g} to {self.most:g}"
            raise ValueError(f"{name}={value!r}: it is {allowed}.")


SAMPLING: Mapping[str, Numbers] = MappingProxyType(
    {
        "max_tokens": Numbers(1),
        "seed": Numbers(-(2**63), 2**64 - 1),
        "temperature": Numbers(0, is_whole=False),
        "top_p": Numbers(TINY, 1, is_whole=False),
        "top_k": Numbers(0),  # 0: all tokens
        "min_p": Numbers(0, 1, is_whole=False),
        "presence_penalty": Numbers(-100, 100, is_whole=False),
        "frequency_penalty": Numbers(-100, 100, is_whole=False),
        "repetition_penalty": Numbers(0.01, 100, is_whole=False),
        "min_tokens": Numbers(0),
        "logprobs": Numbers(0, 20, may_be_none=True),
        "n": Numbers(1),
    }
)
CONFIG: Mapping[str, Numbers] = MappingProxyType(
    {
        "max_num_seqs": Numbers(1, may_be_none=True),
        "max_model_len": Numbers(16, may_be_none=True),
        "max_step_tokens": Numbers(1, may_be_none=True),
        "threads": Numbers(1, 1024, may_be_none=True),
        "gpu_memory_utilization": Numbers(TINY, 1, is_whole=False),
        "speculate": Numbers(0, 16),
        "kv_memory_bytes": Numbers(1, may_be_none=True),
        "num_ranks": Numbers(1),
    }
)
BIAS = Numbers(-1e9, 1e9, is_whole=False)
KV_DTYPES = ("auto", FP8_KV)


def check_config(config: EngineConfig) -> None:
    for name, numbers in CONFIG.items():
        numbers.check(f"EngineConfig.{name}", getattr(config, name))
    if config.num_ranks > 1:
        raise ValueError("The library runs a model in one process.")
    if config.kv_dtype not in KV_DTYPES:
        raise ValueError(f"EngineConfig.kv_dtype={config.kv_dtype!r}: it is one of {', '.join(KV_DTYPES)}.")
    quantization: object = config.quantization
    if isinstance(quantization, str):
        raise TypeError(f"EngineConfig.quantization={quantization!r}: write quantization_named({quantization!r}).")


def check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    if not isinstance(sampling, SamplingParams):
        raise TypeError(f"{type(sampling).__name__} in place of SamplingParams.")
    for name, numbers in SAMPLING.items():
        numbers.check(f"SamplingParams.{name}", getattr(sampling, name))
    check_tuple("stop", sampling.stop, str)
    check_tuple("stop_token_ids", sampling.stop_token_ids, Integral)
    check_tuple("logit_bias", sampling.logit_bias, tuple)
    for pair in sampling.logit_bias:
        if len(pair) != 2:
            raise ValueError(f"SamplingParams.logit_bias holds {pair!r}: it holds pairs of a token id and a number.")
        Numbers(0, vocab_size - 1).check("SamplingParams.logit_bias: token id", pair[0])
        BIAS.check("SamplingParams.logit_bias", pair[1])


def check_tuple(name: str, value: Any, kind: type) -> None:
    """A text is no tuple of texts: each of its letters would stop."""
    if not isinstance(value, tuple | list) or not all(isinstance(item, kind) for item in value):
        raise TypeError(f"SamplingParams.{name}={value!r}: it is a tuple of {TUPLES[name]}.")


TUPLES: Mapping[str, str] = MappingProxyType(
    {"stop": "texts", "stop_token_ids": "token ids", "logit_bias": "pairs of a token id and a number"}
)
