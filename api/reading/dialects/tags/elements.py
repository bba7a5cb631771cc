"""Lists and objects that are written as elements, with a mark before each tag: each item in `<item>`, members by name.

Numbers and keywords stand as they are, and strings without quotes, so that the schemas' nested kinds say what is meant.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from api.reading.dialects.json_value import strict_json
from api.reading.dialects.tags.tag_form import MAX_TAG
from api.reading.dialects.tags.tag_value import type_of_written
from api.reading.parameters import ITEM, OTHERS, STEP, ParameterKind
from api.reading.pieces import num_held

MAX_NAME = 128
NAME = f'[^/<>\n"][^<>\n"]{{0,{MAX_NAME - 1}}}'
MAX_NESTING = 32
TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object"})


@dataclass(slots=True)
class Element:
    name: str
    texts: list[str] = field(default_factory=list)
    inside: list["Element"] = field(default_factory=list)


class ElementValue:
    """A parameter's value, which shows at its end. Of a repeated member the first counts."""

    is_misread = False

    def __init__(self, mark: str, kinds: Mapping[str, ParameterKind], name: str) -> None:
        self._mark = mark
        self._tag = re.compile(rf"{re.escape(mark)}<(/?)({NAME})>")
        self._kinds = kinds
        self._open = [Element(name)]  # the elements that are open, the outermost first
        self._parts: list[str] = []
        self._held = ""  # what may become a tag
        self._is_tree = True  # no text stands beside elements, and each element is closed
        self.is_spoilt = False

    @property
    def may_end(self) -> bool:
        return len(self._open) == 1

    def take(self, text: str) -> str:
        self._parts.append(text)
        self._held += text
        at = 0
        for tag in self._tag.finditer(self._held):
            self._open[-1].texts.append(self._held[at : tag.start()])
            self._follow(is_end=bool(tag[1]), name=tag[2])
            at = tag.end()
        rest = self._held[at:]
        begun = rest.rfind(self._mark)
        if begun < 0 or len(rest) - begun > MAX_TAG:
            begun = len(rest) - num_held(rest, [self._mark])
        self._open[-1].texts.append(rest[:begun])
        self._held = rest[begun:]
        return ""

    def end(self) -> str:
        self._open[-1].texts.append(self._held)
        value = self._open[0]
        self._close(value)
        kind = self._kinds.get(value.name, "mixed")
        if self._is_tree and self.may_end:
            return _written(value, value.name, self._kinds)
        self.is_spoilt = "text" not in types_in(kind)
        return "" if self.is_spoilt else json.dumps("".join(self._parts), ensure_ascii=False)

    def _follow(self, *, is_end: bool, name: str) -> None:
        if not is_end and len(self._open) < MAX_NESTING:
            element = Element(name)
            self._open[-1].inside.append(element)
            self._open.append(element)
        elif is_end and len(self._open) > 1:
            self._close(self._open.pop())
        else:
            self._is_tree = False

    def _close(self, element: Element) -> None:
        if element.inside and "".join(element.texts).strip():
            self._is_tree = False


def types_in(kind: ParameterKind) -> frozenset[str]:
    """The types of a kind, where `text` is a string."""
    if kind in ("mixed", "json"):
        return TYPES | {"text"} if kind == "mixed" else TYPES
    return frozenset(kind.split("|"))


def path_to(path: str, step: str, kinds: Mapping[str, ParameterKind]) -> str:
    """The path of a member or item."""
    return named if (named := f"{path}{STEP}{step}") in kinds else f"{path}{STEP}{OTHERS}"


def scalar_json(kind: ParameterKind, text: str) -> str:
    """The value of an element without elements inside. An empty one may be a list or an object."""
    types = types_in(kind)
    if "text" not in types:
        empty = next((empty for name, empty in EMPTY if name in types), None)
        return empty if empty and not text.strip() else strict_json(text) or json.dumps(text, ensure_ascii=False)
    written = strict_json(text) if types != {"text"} else None
    found = type_of_written(written) if written else "string"
    fits = found in types - CONTAINERS or (found == "integer" and "number" in types)
    return written if written and fits else json.dumps(text, ensure_ascii=False)


def as_elements(value: Any, mark: str) -> str:
    """The value as the templates write it."""
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else ((ITEM, item) for item in value)
        return "".join(f"{mark}<{name}>{as_elements(inner, mark)}{mark}</{name}>" for name, inner in members)
    return value if isinstance(value, str) else json.dumps(value)


CONTAINERS = frozenset({"array", "object"})
EMPTY = (("array", "[]"), ("object", "{}"), ("null", "null"))


def _written(element: Element, path: str, kinds: Mapping[str, ParameterKind]) -> str:
    if not element.inside:
        return scalar_json(kinds.get(path, "mixed"), "".join(element.texts))
    types = types_in(kinds.get(path, "mixed"))
    is_list = "array" in types
    if is_list == ("object" in types):
        is_list = all(inner.name == ITEM for inner in element.inside)
    if is_list:
        items = path_to(path, ITEM, kinds)
        return f"[{', '.join(_written(inner, items, kinds) for inner in element.inside)}]"
    members = {inner.name: inner for inner in reversed(element.inside)}
    named = (members[name] for name in dict.fromkeys(inner.name for inner in element.inside))
    texts = (
        f"{json.dumps(inner.name, ensure_ascii=False)}: {_written(inner, path_to(path, inner.name, kinds), kinds)}"
        for inner in named
    )
    return f"{{{', '.join(texts)}}}"
