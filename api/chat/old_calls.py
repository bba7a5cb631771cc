"""Answers to requests with `functions`: one `function_call` in the place of `tool_calls`."""

from typing import Any

OLD_REASON = "function_call"


def old_delta(delta: dict[str, Any]) -> dict[str, Any]:
    """A chunk's `delta` in the old form."""
    if "tool_calls" not in delta:
        return delta
    return {"function_call": delta["tool_calls"][0]["function"]}


def old_message(message: dict[str, Any]) -> dict[str, Any]:
    """A whole message in the old form."""
    if "tool_calls" not in message:
        return message
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return rest | {"function_call": message["tool_calls"][0]["function"]}


def old_reason(finish_reason: str | None) -> str | None:
    return OLD_REASON if finish_reason == "tool_calls" else finish_reason
