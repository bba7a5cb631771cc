"""Keeps the requests that schemathesis makes short, and most of them alive past the first check.

OpenAPI's `schema` of a stream is that of its whole text; schemathesis 4 holds it against each event, so it is left out.
"""

from typing import Any

import schemathesis

MODEL = "omni-demo"
MAX_TOKENS = 3
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            for response in operation.get("responses", {}).values():
                response.get("content", {}).get("text/event-stream", {}).pop("schema", None)


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Names a model that is there, asks for few tokens, and for no deadline: running into one is a 504, and right."""
    if not isinstance(body, dict):
        return body
    changed = {name: value for name, value in body.items() if name not in ("timeout", "min_tokens")}
    if isinstance(changed.get("model"), str):
        changed["model"] = MODEL
    for name in LIMITS:
        if isinstance(changed.get(name), int) and not 0 <= changed[name] <= MAX_TOKENS:
            changed[name] = MAX_TOKENS
    if isinstance(options := changed.get("options"), dict):  # Ollama's
        changed["options"] = options | {"num_predict": MAX_TOKENS}
    if not any(changed.get(name) for name in LIMITS) and ("messages" in changed or "input" in changed):
        changed["max_tokens" if "messages" in changed else "max_output_tokens"] = MAX_TOKENS
    return changed
