"""OpenAI's API before tools: `functions` and `function_call`, of which an answer has one at most, as tools."""

from typing import Any

OLD_RESULT = "function"  # the role of a function's result


def with_tools(body: Any) -> Any:
    """A body with `functions` as one with `tools`; both stay, so that the answer can have the old form."""
    if not isinstance(body, dict) or not isinstance(body.get("functions"), list) or body.get("tools"):
        return body
    tools = [{"type": "function", "function": function} for function in body["functions"]]
    choice = body.get("function_call")
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    return body | {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False}


def with_tool_calls(message: Any) -> Any:
    """A call and its result find each other by the function's name, which is all that they have."""
    if not isinstance(message, dict):
        return message
    call = message.get("function_call")
    if isinstance(call, dict) and not message.get("tool_calls"):
        return message | {"tool_calls": [{"id": _id_of(call), "function": call}]}
    if message.get("role") == OLD_RESULT:
        return message | {"role": "tool", "tool_call_id": _id_of(message)}
    return message


def _id_of(named: dict[str, Any]) -> str:
    return f"call_{named.get('name', '')}"
