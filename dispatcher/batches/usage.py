"""The tokens that an answer says it took, in any dialect's words."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from common.records.batch_work import BatchCounts, LineResult


def counts_of(results: Iterable[LineResult]) -> BatchCounts:
    sums = dict.fromkeys(BatchCounts.__dataclass_fields__, 0)
    for result in results:
        sums[f"num_{result.outcome}"] += 1
        if result.outcome == "succeeded":
            for name, number in tokens_of(orjson.loads(result.body)).items():
                sums[name] += number
    return BatchCounts(**sums)


def tokens_of(body: Any) -> dict[str, int]:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return {}
    given = _first(usage, "prompt_tokens", "input_tokens")
    read = _first(usage, "cache_read_input_tokens")  # Anthropic's input_tokens are without these
    inputs = _details(usage, "prompt_tokens_details", "input_tokens_details")
    outputs = _details(usage, "completion_tokens_details", "output_tokens_details")
    return {
        "prompt_tokens": given + read,
        "cached_tokens": read or _first(inputs, "cached_tokens"),
        "completion_tokens": _first(usage, "completion_tokens", "output_tokens"),
        "reasoning_tokens": _first(outputs, "reasoning_tokens", "thinking_tokens"),
    }


def _first(values: Mapping[str, Any], *names: str) -> int:
    return next((int(values[name]) for name in names if isinstance(values.get(name), int)), 0)


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((usage[name] for name in names if isinstance(usage.get(name), dict)), {})
