"""A value between tags, which becomes strict JSON while it is written."""

import json
from typing import Literal, Protocol

from api.reading.dialects.json_value import JsonValue, strict_json
from api.reading.parameters import ParameterKind

SPACE = " \t\r\n"


class TagValue(Protocol):
    """Takes a value's text and returns the JSON that is certain."""

    @property
    def may_end(self) -> bool:
        """The value can be complete here."""

    @property
    def is_spoilt(self) -> bool:
        """The JSON returned so far cannot be completed."""

    @property
    def is_misread(self) -> bool:
        """What looked like JSON is none; nothing was returned of it."""

    def take(self, text: str) -> str: ...

    def end(self) -> str: ...


class TextValue:
    """A string."""

    may_end = True
    is_spoilt = False
    is_misread = False

    def __init__(self) -> None:
        self._opening = '"'

    def take(self, text: str) -> str:
        opening, self._opening = self._opening, ""
        return opening + json.dumps(text, ensure_ascii=False)[1:-1]

    def end(self) -> str:
        return self._opening + '"'


class HeldValue:
    """A string or something else, which shows at its end. `is_plain`: it is known to be no list and no object."""

    is_spoilt = False

    def __init__(self, kind: ParameterKind, *, is_plain: bool = False) -> None:
        self._kind = kind
        self._json = None if is_plain else JsonText()
        self._parts: list[str] = []

    @property
    def may_end(self) -> bool:
        return self._json is None or self._json.may_end

    @property
    def is_misread(self) -> bool:
        return self._json is not None and self._json.is_spoilt

    def take(self, text: str) -> str:
        self._parts.append(text)
        if self._json and not self._json.is_spoilt:
            self._json.take(text)
        return ""

    def end(self) -> str:
        return written_json(self._kind, "".join(self._parts))

    def plain(self) -> tuple["HeldValue", str]:
        """The value begun anew as a plain one, and the text so far."""
        return HeldValue(self._kind, is_plain=True), "".join(self._parts)


class JsonText:
    """JSON, or what Python writes for it. A list or object streams; a scalar that is no JSON becomes a string."""

    is_misread = False

    def __init__(self) -> None:
        self._value = JsonValue()
        self._state: Literal["blank", "scalar", "inside", "after"] = "blank"
        self._scalar: list[str] = []
        self.is_spoilt = False

    @property
    def may_end(self) -> bool:
        return self._state != "inside" or self.is_spoilt

    def take(self, text: str) -> str:
        if self._state == "blank" and (text := text.lstrip(SPACE)):
            self._state = "inside" if text[0] in "[{" else "scalar"
        if self._state == "scalar":
            self._scalar.append(text)
            return ""
        return "".join(map(self._follow, text))

    def end(self) -> str:
        return written_json("json", "".join(self._scalar)) if self._state in ("blank", "scalar") else ""

    def _follow(self, char: str) -> str:
        if self.is_spoilt or self._state == "after":
            self.is_spoilt = self.is_spoilt or char not in SPACE
            return ""
        took, written = self._value.take(char)
        self.is_spoilt = took == "bad"
        self._state = "after" if took == "last" else "inside"
        return written


def new_value(kind: ParameterKind) -> TagValue:
    if kind == "text":
        return TextValue()
    return JsonText() if kind == "json" else HeldValue(kind)


def written_json(kind: ParameterKind, text: str) -> str:
    """The value of a parameter of this kind, as strict JSON."""
    written = None if kind == "text" else strict_json(text)
    return written if written and (kind == "json" or _fits(kind, written)) else json.dumps(text, ensure_ascii=False)


def _fits(kind: ParameterKind, written: str) -> bool:
    """A string in quotes does not fit: it is a text with quotes."""
    found, types = type_of_written(written), kind.split("|")
    return found != "string" and (kind == "mixed" or found in types or (found == "integer" and "number" in types))


def type_of_written(written: str) -> str:
    """The JSON type of a strict value, by its text: it may be too deep or too long a number for a parser."""
    types = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}
    return types.get(written[0]) or ("number" if set(written) & set(".eE") else "integer")
