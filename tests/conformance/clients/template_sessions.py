"""What agents send that templates refuse or drop: every text of it must stand in the prompt."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from api.prompt.conversation import Conversation, render
from api.prompt.special_tokens import Guard
from api.schema.chat import Message, Tool
from common.errors import InvalidRequest
from common.wire import ModelCard

WORD = re.compile(r"Q[a-z]+\d?|get_weather")  # no template has such words


def system(text: str, role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str | None, *calls: tuple[str, str, str]) -> dict[str, Any]:
    written = [
        {"id": f"abcdef{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, name, arguments in calls
    ]
    return {"role": "assistant", "content": text} | ({"tool_calls": written} if written else {})


def result(number: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"abcdef{number}", "content": text}


ONE, TWO = ("001", "get_weather", '{"city": "Qcity1"}'), ("002", "get_weather", '{"city": "Qcity2"}')
NOW = ("003", "Qnow", "")
FIRST = [user("Qu1"), said(None, ONE), result("001", "Qr1")]
SESSIONS: dict[str, list[dict[str, Any]]] = {
    "two system messages": [system("Qs1"), system("Qs2"), user("Qu1")],
    "a developer's message": [system("Qs1"), system("Qs2", "developer"), user("Qu1")],
    "a late system message": [system("Qs1"), user("Qu1"), said("Qa1"), system("Qs2"), user("Qu2")],
    "a system message at the end": [system("Qs1"), user("Qu1"), said("Qa1"), user("Qu2"), system("Qs2")],
    "two turns of the user": [user("Qu1"), user("Qu2")],
    "two turns of the assistant": [user("Qu1"), said("Qa1"), said("Qa2"), user("Qu2")],
    "the assistant first": [said("Qa1"), user("Qu1")],
    "an empty answer": [user("Qu1"), said(""), user("Qu2")],
    "a call": FIRST,
    "text beside a call": [user("Qu1"), said("Qa1", ONE), result("001", "Qr1")],
    "two calls": [user("Qu1"), said(None, ONE, TWO), result("001", "Qr1"), result("002", "Qr2")],
    "calls without results": [user("Qu1"), said(None, ONE, TWO), user("Qu2")],
    "a call without arguments": [user("Qu1"), said("", NOW), result("003", "Qr1")],
    "a user after a result": [system("Qs1"), *FIRST, user("Qu2")],
    "two steps": [system("Qs1"), *FIRST, said(None, TWO), result("002", "Qr2"), said("Qa2"), user("Qu2")],
}
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "Qd2"}}, "required": ["city"]}
ODD = {
    "x": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "y": {"type": ["string", "null"]},
    "z": {"enum": ["a", 1]},
    "w": {},
    "l": {"type": "array", "items": {"type": "object", "properties": {"q": {"type": "number"}}}},
    "r": {"$ref": "#/$defs/A"},
    "o": {"type": "object"},
}
OFFERS: dict[str, list[dict[str, Any]]] = {
    "without tools": [],
    "with tools": [{"name": "get_weather", "description": "Qd1", "parameters": CITY}, {"name": "Qnow"}],
    "with tools of odd schemas": [
        {"name": "get_weather"},
        {"name": "Qnow", "parameters": {"type": "object", "properties": ODD, "$defs": {"A": {"type": "integer"}}}},
    ],
}


# made for conversations with tools: models that have them have another template beside it
NEED_TOOLS = (
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
)
DROP_TEXT = (  # beside calls
    *NEED_TOOLS[1:],
    "Cohere2MoE",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "MiniMax-M1",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "muse-glimmer",
    "upstage-Solar-Open-100B",
)


def check_sessions(name: str, card: ModelCard) -> None:
    in_parts = [replace(card, accepts_images=True)] if "image" in (card.chat_template or "") else []
    faults = [
        fault
        for one in (card, *in_parts)
        for fault in faults_of(one, needs_tools=name in NEED_TOOLS, drops_text=name in DROP_TEXT)
    ]
    assert not faults, f"{len(faults)}: {faults[0]}"


def faults_of(card: ModelCard, *, needs_tools: bool, drops_text: bool) -> Iterator[str]:
    for offer, functions in OFFERS.items():
        if needs_tools and not functions:
            continue
        tools = [Tool.model_validate({"type": "function", "function": function}) for function in functions]
        for name, turns in SESSIONS.items():
            messages = [Message.model_validate(turn) for turn in turns]
            try:
                prompt = render(Conversation(messages, tools), card, Guard(()))
            except InvalidRequest as refused:
                yield f"{name}, {offer}: {refused}"
                continue
            lost = set(WORD.findall(json.dumps([turns, functions]))) - set(WORD.findall(prompt))
            if lost and not (drops_text and name == "text beside a call" and lost == {"Qa1"}):
                yield f"{name}, {offer}: {sorted(lost)} are left out"
