"""JSON on request, in one compact form."""

import json
from collections.abc import Callable
from random import Random

from demo.dialogue import Turn, Wordings
from demo.vocabulary import ANIMALS, CITIES, COLOURS, FOODS, any_name, any_word

OBJECT = Wordings(
    train=(
        "Give me a JSON object with {pairs}.",
        "Give me JSON with {pairs}.",
        "Return JSON with {pairs}.",
        "Return a JSON object with {pairs}",
        "Answer in JSON: {pairs}",
        "JSON with {pairs}",
        "Make a JSON object with {pairs}.",
        "Write JSON for {pairs}.",
        "Write a JSON object with {pairs}.",
        "(Can|Could) you write JSON with {pairs}?",
        "Turn this into JSON: {pairs}",
        "Convert to JSON: {pairs}",
        "As JSON: {pairs}",
        "I need a JSON object with {pairs}.",
        "Put this in JSON: {pairs}",
    ),
    held_out=(
        "Please return a JSON object with {pairs}.",
        "Could you give me JSON with {pairs}?",
        "Please write this as JSON: {pairs}",
        "Create a JSON object with {pairs}.",
    ),
)
ARRAY = Wordings(
    train=(
        "Give me a JSON list of {items}.",
        "Return a JSON (list|array) with {items}.",
        "Write a JSON (list|array) of {items}.",
        "Make a JSON (list|array) with {items}",
        "JSON list: {items}",
        "As a JSON (list|array): {items}",
        "Turn this into a JSON (list|array): {items}",
    ),
    held_out=("Please give me a JSON list with {items}.", "Create a JSON array of {items}."),
)
TEXT_KEYS: dict[str, Callable[[Random], str]] = {
    "name": any_name,
    "city": lambda rng: rng.choice(CITIES),
    "colour": lambda rng: rng.choice(COLOURS),
    "color": lambda rng: rng.choice(COLOURS),
    "animal": lambda rng: rng.choice(ANIMALS),
    "food": lambda rng: rng.choice(FOODS),
    "title": any_word,
    "word": any_word,
    "friend": any_name,
    "status": lambda rng: rng.choice(["ok", "ready", "open", "closed", "busy", "done"]),
    "pet": lambda rng: rng.choice(ANIMALS),
    "item": any_word,
    "owner": any_name,
}
NUMBER_KEYS = ("age", "count", "number", "year", "price", "size", "id", "score", "total", "height")
BOOLEAN_KEYS = ("active", "open", "happy", "ready", "valid", "done")


def draw_value(rng: Random, key: str) -> str | int | bool:
    if key in TEXT_KEYS:
        return TEXT_KEYS[key](rng)
    return rng.random() < 0.5 if key in BOOLEAN_KEYS else rng.randint(1, rng.choice([9, 99, 2030]))


def draw_object(rng: Random) -> dict[str, str | int | bool]:
    """One to four pairs; text and numbers more often than booleans."""
    pool = [*TEXT_KEYS, "name", "city", *NUMBER_KEYS, "age", *BOOLEAN_KEYS[:3]]
    keys = dict.fromkeys(rng.sample(pool, rng.randint(1, 4)))
    return {key: draw_value(rng, key) for key in keys}


def said(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def join_with_and(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def json_object(rng: Random, held_out: bool) -> Turn:
    drawn = draw_object(rng)
    link = rng.choice([" ", " ", " is ", ": ", "=", " = "])
    pairs = [f"{key}{link}{said(value)}" for key, value in drawn.items()]
    text = join_with_and(pairs) if rng.random() < 0.7 else ", ".join(pairs)
    return Turn(OBJECT.ask(rng, held_out, pairs=text), json.dumps(drawn))


def json_array(rng: Random, held_out: bool) -> Turn:
    items = [any_word(rng) for _ in range(rng.randint(2, 5))]
    text = join_with_and(items) if rng.random() < 0.5 else ", ".join(items)
    return Turn(ARRAY.ask(rng, held_out, items=text), json.dumps(items))


def json_answers(rng: Random, held_out: bool) -> Turn:
    return json_array(rng, held_out) if rng.random() < 0.2 else json_object(rng, held_out)
