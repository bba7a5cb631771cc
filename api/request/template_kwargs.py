"""A request's switches of reasoning as variables of the model's chat template."""

from typing import Any

from api.schema.chat import ChatRequest
from api.schema.tokens import TokenizeRequest

SWITCHES = ("enable_thinking", "thinking")  # each model's template reads one of them


def template_kwargs(body: ChatRequest | TokenizeRequest) -> dict[str, Any]:
    """OpenAI's and DeepSeek's switches, then the caller's own variables, of which one switch stands for both."""
    kwargs: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        kwargs = {"reasoning_effort": body.reasoning_effort} | _switched(body.reasoning_effort != "none")
    if body.thinking is not None:
        kwargs |= _switched(body.thinking.type == "enabled")
    sent = body.chat_template_kwargs or {}
    if len(given := [sent[name] for name in SWITCHES if name in sent]) == 1:
        sent = sent | _switched(given[0])
    kwargs |= sent
    return {"thinking_budget": 0} | kwargs if kwargs.get("thinking") is False else kwargs  # Seed-OSS's switch


def _switched(value: Any) -> dict[str, Any]:
    return dict.fromkeys(SWITCHES, value)
