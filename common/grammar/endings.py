"""Finds schemas that no finite text fulfils, because each value needs another one inside it without end."""

from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import InvalidRequest
from common.grammar.references import referred

MAX_ROUNDS = 64  # of the search; chains of references that are longer count as good


def refuse_endless(schema: Mapping[str, Any], param: str) -> None:
    """Raises InvalidRequest for a schema whose values never come to an end, such as one that only refers to itself.

    The smallest fixed point: at first no reference is known to have an end; each round adds those that then have one.
    """
    targets = {ref: referred(schema, ref) for ref in _refs(schema)}
    ending: set[str] = set()
    for _ in range(MAX_ROUNDS):
        found = {ref for ref, target in targets.items() if ref not in ending and _ends(target, ending)}
        if not found:
            break
        ending |= found
    else:
        return
    if _ends(schema, ending):
        return
    if endless := next((ref for ref in targets if ref not in ending), None):
        fault = (
            f"never comes to an end: each {endless!r} needs another one inside it. Make a property on the way optional "
            "or nullable, or allow an empty array."
        )
    else:
        fault = "demands a value that nothing can fulfil (false, or 'not': {})."
    raise InvalidRequest(f"The schema {fault}", param=param)


def _ends(node: Any, ending: set[str]) -> bool:
    """True if a finite value can fulfil the node, as far as references to `ending` ones go."""
    if not isinstance(node, dict):
        return node is not False
    if isinstance(ref := node.get("$ref"), str) and ref not in ending:
        return False
    for keyword, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        ways = node.get(keyword)
        if isinstance(ways, list) and ways and not enough(_ends(way, ending) for way in ways):
            return False
    kinds = node.get("type")
    if kinds == "object":
        return _object_ends(node, ending)
    return kinds != "array" or _array_ends(node, ending)


def _object_ends(node: Mapping[str, Any], ending: set[str]) -> bool:
    properties, required = node.get("properties"), node.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return True
    return all(_ends(properties[name], ending) for name in required if isinstance(name, str) and name in properties)


def _array_ends(node: Mapping[str, Any], ending: set[str]) -> bool:
    least = node.get("minItems", 0)
    if not isinstance(least, int | float) or least < 1:
        return True
    first = node.get("prefixItems")
    places = [*first, *([node.get("items", True)] if least > len(first) else [])] if isinstance(first, list) else []
    return all(_ends(place, ending) for place in places[: int(least)] or [node.get("items", True)])


def _refs(value: Any) -> Iterator[str]:
    """All `$ref` in the schema. Those inside enum and the like do no harm: they only count as further places."""
    if isinstance(value, dict):
        if isinstance(ref := value.get("$ref"), str):
            yield ref
        for child in value.values():
            yield from _refs(child)
    elif isinstance(value, list):
        for child in value:
            yield from _refs(child)
