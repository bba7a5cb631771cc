"""The subschemas of a JSON schema, and where each stands."""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
SINGLES = frozenset(
    {"items", "additionalProperties", "additionalItems", "not", "contains", "propertyNames", "if", "then", "else"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
MAX_NAME = 64  # characters of a property's name that a place quotes


class Subschema(NamedTuple):
    """What stands where a subschema belongs."""

    keyword: str
    key: str | int | None  # in the keyword's object or list; None where the keyword has one subschema
    value: Any

    @property
    def place(self) -> str:
        """As refusals write it: `.properties.x`, `.anyOf[0]`, `.items`."""
        if isinstance(self.key, int):
            return f".{self.keyword}[{self.key}]"
        return f".{self.keyword}" + ("" if self.key is None else f".{self.key[:MAX_NAME]}")

    @property
    def pointer(self) -> str:
        """As references write it: `/properties/x`."""
        return f"/{self.keyword}" + ("" if self.key is None else f"/{escaped(str(self.key))}")


def children(node: dict[str, Any]) -> Iterator[Subschema]:
    """Values in enum, const and the like are no subschemas."""
    for keyword, value in node.items():
        if keyword in MAPS and isinstance(value, dict):
            yield from (Subschema(keyword, name, child) for name, child in value.items())
        elif keyword in LISTS and isinstance(value, list):
            yield from (Subschema(keyword, number, child) for number, child in enumerate(value))
        elif keyword in SINGLES:
            yield Subschema(keyword, None, value)


def escaped(name: str) -> str:
    """One step of a reference."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~")
