"""Random answers that a grammar admits, and random schemas with values that they allow."""

from random import Random
from typing import Any

from llguidance import LLMatcher

from common.grammar.answer import Grammar
from common.grammar.check import parser_limits
from tests.grammars import tokenizer

ENDINGS = 5  # how many fragments bring an answer to its end
ENDS = (("min", float("-inf")), ("max", float("inf")))


def walk(grammar: Grammar, rng: Random, fragments: tuple[str, ...], most: int = 400) -> str | None:
    """A random answer, made of the fragments and of single bytes; None if it did not end in `most` steps.

    The fragments stand for what a model likes to write. After a while the last ones are preferred.
    """
    matcher = LLMatcher(tokenizer(), grammar.text, log_level=0, limits=parser_limits())
    written = bytearray()
    for step in range(most):
        if matcher.is_stopped() or (matcher.is_accepting() and rng.random() < 0.5):
            return written.decode()
        kept = fragments if step < most // 4 else fragments[-ENDINGS:]
        order = [*rng.sample(kept, len(kept)), *fragments[::-1]]
        data = next((part.encode() for part in order if _fits(matcher, part.encode())), None)
        if data is None or (step < most // 4 and rng.random() < 0.2):
            mask = matcher.compute_bitmask()
            allowed = [value for value in (10, *range(32, 127)) if mask[value // 8] >> (value % 8) & 1]
            if not allowed:
                return None
            data = bytes([rng.choice(allowed)])
        assert matcher.consume_tokens(list(data)), matcher.get_error()
        written += data
    return None


def _fits(matcher: LLMatcher, data: bytes) -> bool:
    return bool(matcher.validate_tokens(list(data)) == len(data))


def a_schema(rng: Random, depth: int = 2) -> dict[str, Any]:
    """A schema of the keywords that every dialect can enforce."""
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return {"type": "string"}
    if kind == 1:
        return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 5)}
    if kind == 2:
        return rng.choice([{"type": "integer", "minimum": -5, "maximum": 20}, {"type": "number"}])
    if kind == 3:
        return {"type": rng.choice(["boolean", "null"])}
    if kind == 4:
        return {"enum": ["celsius", "it's", 'a "b"', 3, None, True, [1, "x"], {"k": "v"}][: rng.randint(1, 8)]}
    if kind == 5:
        return {"type": ["string", "null"]}
    if kind == 6:
        least = rng.randint(0, 2)
        return {"type": "array", "items": a_schema(rng, depth - 1), "minItems": least, "maxItems": least + 2}
    if kind == 7:
        return {"anyOf": [a_schema(rng, depth - 1), a_schema(rng, depth - 1)]}
    return an_object_schema(rng, depth - 1)


def an_object_schema(rng: Random, depth: int = 2) -> dict[str, Any]:
    names = rng.sample(["city", "b", "Days", "a_c", "unit"], rng.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: a_schema(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
        "additionalProperties": False,
    }


def an_instance(schema: dict[str, Any], rng: Random, texts: tuple[str, ...]) -> Any:
    """A value that such a schema allows."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return an_instance(rng.choice(schema["anyOf"]), rng, texts)
    kind = rng.choice(schema["type"]) if isinstance(schema["type"], list) else schema["type"]
    if kind == "string":
        least, most = schema.get("minLength", 0), schema.get("maxLength", 6)
        text = "".join(rng.choice(texts) for _ in range(rng.randint(least, most)))
        return text if "maxLength" not in schema else text[:most].ljust(least, "x")
    if kind == "integer":
        return rng.randint(schema.get("minimum", -99), schema.get("maximum", 99))
    if kind == "number":
        return rng.choice([0, 1.5, -2, 1e-7, 12345])
    if kind in ("boolean", "null"):
        return rng.choice([True, False]) if kind == "boolean" else None
    if kind == "array":
        return [
            an_instance(schema["items"], rng, texts) for _ in range(rng.randint(schema["minItems"], schema["maxItems"]))
        ]
    return {
        name: an_instance(inner, rng, texts)
        for name, inner in schema["properties"].items()
        if name in schema["required"] or rng.random() < 0.5
    }


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """True if such a schema allows the value."""
    if "enum" in schema:
        return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in schema["enum"])
    if "anyOf" in schema:
        return any(fits(value, way) for way in schema["anyOf"])
    if isinstance(schema["type"], list):
        return any(fits(value, {"type": kind}) for kind in schema["type"])
    least, most = (next((schema[key] for key in schema if key.startswith(name)), end) for name, end in ENDS)
    match schema["type"]:
        case "string":
            return isinstance(value, str) and least <= len(value) <= most
        case "integer" | "number" as kind:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and least <= value <= most and (kind == "number" or value == int(value))
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "array":
            inner = isinstance(value, list) and all(fits(item, schema["items"]) for item in value)
            return inner and least <= len(value) <= most
    known = schema["properties"]
    is_object = isinstance(value, dict) and set(schema["required"]) <= value.keys() <= known.keys()
    return is_object and all(fits(item, known[name]) for name, item in value.items())
