"""What harmony's chat template (gpt-oss) wants otherwise than other templates."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from api.prompt.turns import joined

REASONING = ("reasoning_content", "thinking", "reasoning")
EFFORTS: Mapping[str, str] = MappingProxyType(
    {"none": "low", "minimal": "low", "xhigh": "high", "max": "high", "ultra": "high"}
)


def with_one_text(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages in which a call has no text beside its reasoning: the template refuses both, so the two are joined."""
    return [_with_one_text(message) for message in messages]


def with_known_effort(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The model was taught low, medium and high, and to think always."""
    return {name: EFFORTS.get(value, value) if name == "reasoning_effort" else value for name, value in kwargs.items()}


def _with_one_text(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = next((message[name] for name in REASONING if message.get(name)), None)
    if not (reasoning and message.get("tool_calls") and message.get("content")):
        return message
    rest = {name: value for name, value in message.items() if name not in REASONING}
    return rest | {"content": "", "thinking": joined(reasoning, message["content"])}
