"""What is said in the pictures: answers as a model would write them, and a list of conversations."""

import time
from pathlib import Path
from typing import Any

from tests.e2e.fake_backend import words

ANSWERS = Path(__file__).parent / "answers"
DAY_MS = 86_400_000

JSON_ANSWER = '{"city": "Paris", "country": "France", "population": 2102650, "rivers": ["Seine"], "is_capital": true}'
THOUGHT = """The user wants the sum of 17 and 25.
17 + 25: 7 + 5 = 12, carry 1; 1 + 2 + 1 = 4.
So it is 42. I should say so briefly."""


def written(name: str) -> list[dict[str, Any]]:
    return words((ANSWERS / f"{name}.md").read_text())


def reasoned() -> list[dict[str, Any]]:
    thought = [{"reasoning_content": part["content"]} for part in words(THOUGHT)]
    return [*thought, *words("17 + 25 = **42**.")]


def called() -> list[dict[str, Any]]:
    heads = [
        ("call_1", "get_weather", '{"city": "Paris", "unit": "celsius"}'),
        ("call_2", "get_time", '{"zone": "Europe/Paris"}'),
    ]
    calls = [
        {
            "tool_calls": [
                {"index": at, "id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
            ]
        }
        for at, (call, name, arguments) in enumerate(heads)
    ]
    return [*words("I look both up."), *calls]


def broken() -> list[dict[str, Any]]:
    error = {"message": "The GPU ran out of memory while it generated this answer.", "code": 500, "param": None}
    return [*words("The first thing to know about sourdough is that"), {"error": error}]


QUESTIONS = {
    "How does a binary search work?": lambda: written("search"),
    "Show me the command and the query": lambda: written("code"),
    "Compare the inner planets": lambda: written("table"),
    "The roots of a quadratic equation, and the normal distribution": lambda: written("formulas"),
    "Other scripts": lambda: written("scripts"),
    "What is 17 + 25?": reasoned,
    "What is the weather in Paris, and what time is it?": called,
    "Facts about Paris as JSON": lambda: words(JSON_ANSWER),
    "How do I bake sourdough?": broken,
    "It is 21 °C": lambda: words("It is 21 °C in Paris, at 14:05. A light jacket is enough."),
    "What is in these files?": lambda: words(
        "A gradient from green to blue, your notes about milk, and the plan of a house."
    ),
}

CHATS = [
    ("Binary search in Python", 0, {"isPinned": True}),
    ("Notes for Monday's meeting", 3, {"isPinned": True}),
    ("Trip to Lisbon: where to eat", 1, {"folder": "Travel"}),
    ("Night trains from Vienna", 9, {"folder": "Travel"}),
    ("Packing list", 40, {"folder": "Travel"}),
    ("Why does my query use a sequential scan although there is an index?", 0, {"folder": "Work"}),
    ("Rename a Kubernetes namespace", 2, {"folder": "Work"}),
    ("The roots of a quadratic equation", 0, {}),
    ("Sourdough for beginners", 0, {}),
    ("A poem about the sea", 1, {}),
    ("Irregular verbs in Portuguese", 1, {}),
    *[(f"Question {number} about the history of tea", 4 + number, {}) for number in range(1, 9)],
    *[(f"An old chat, number {number}", 50 + 20 * number, {}) for number in range(1, 12)],
]


def chats() -> dict[str, Any]:
    """An export of the page with the conversations of a few months."""
    now = int(time.time() * 1000)
    found = []
    for number, (title, age, rest) in enumerate(CHATS):
        updated = now - age * DAY_MS - number * 60_000
        ask = {"id": f"u{number}", "parent": None, "order": 0, "role": "user", "content": title}
        told = {
            "id": f"a{number}",
            "parent": f"u{number}",
            "order": 1,
            "role": "assistant",
            "content": (ANSWERS / "search.md").read_text() if number == 0 else "Of course.",
        }
        figures = {
            "model": "qwen3-8b",
            "usage": {"completion_tokens": 231, "total_tokens": 262},
            "sentAt": 1000,
            "firstAt": 1180,
            "lastAt": 4900,
        }
        fields = {
            "id": f"c{number}",
            "title": title,
            "isNamed": True,
            "created": updated,
            "updated": updated,
            "options": {},
        }
        found.append({**fields, **rest, "messages": [ask, {**told, **figures}]})
    return {"format": "omni-chats", "version": 1, "conversations": found}
