"""Parses one block of calls whose parameters stand between tags, in any form that a TagForm describes.

A call is certain, and comes out, from its first parameter or its end on. Of a repeated parameter the first counts.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from api.reading.dialects.tags.elements import ElementValue
from api.reading.dialects.tags.tag_form import Tag, TagForm, value_ends
from api.reading.dialects.tags.tag_value import HeldValue, TagValue, TextValue, new_value
from api.reading.pieces import CallPieces, Content, Piece, num_held

STRING_TYPES = frozenset({"string", "true"})  # as the tags of parameters say it
Found = Literal["call", "parameter", "call end", "closing", "next", "stray", "other"]


class TagBlock:
    """From after the block's opening marker to its end."""

    def __init__(self, form: TagForm, calls: CallPieces, before: str) -> None:
        self._form = form
        self._calls = calls
        # The beginning of the first call's tag, if that began the block.
        self._held = self._own = "" if form.opening and before.endswith(form.opening) else form.call.start
        self._raw = [before.removesuffix(self._own)]  # what comes out as content if no call follows
        self._state: Literal["calls", "call", "value start", "value", "spoilt", "over"] = "calls"
        self._name = ""
        self._is_certain = False  # the call being read
        self._has_called = False
        self._parameters: set[str] = set()  # of the call being read
        self._value: TagValue = new_value("json")
        self._is_repeated = False  # the parameter being read
        self._has_passed_end = False  # a text that would end the value, were it not inside a string of JSON
        self._ended = form  # with the end of the parameter being read
        self._ends = value_ends(form, "")

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        self._held += text
        pieces: list[Piece] = []
        while self._state != "over":
            if self._state == "spoilt":
                return pieces, self._read_spoilt()
            if self._state == "value start":
                has_moved = self._begin_value()
            elif self._state == "value":
                has_moved = self._read_value(pieces)
            else:
                has_moved = self._read_tag(pieces)
            if not has_moved:
                return pieces, None
        return pieces, self._held

    def finish(self) -> list[Piece]:
        pieces: list[Piece] = []
        if self._state in ("value start", "value"):
            last = self._ends.last.search(self._held)
            if last:
                self._take(self._held[: last.start()], pieces)
                self._held = self._held[last.start() :]
            is_text = self._value.is_misread and self._has_passed_end
            if last and self._value.may_end and not is_text and self._end_value(pieces):
                self._end_call(pieces)
            elif self._read_as_text():
                more, rest = self.read("")
                pieces += [*more, Content(rest or "")] if rest is not None else [*more, *self.finish()]
            return pieces
        if self._state == "call" and self._is_certain:
            self._end_call(pieces)
        elif self._state != "spoilt" and not (self._has_called and self._state == "calls"):
            pieces.append(Content("".join(self._raw) + self._held))
        return pieces

    def _read_tag(self, pieces: list[Piece]) -> bool:
        begun = self._held.lstrip()
        self._raw.append(self._held[: len(self._held) - len(begun)])
        self._held = begun
        if not begun or (found := _tag_of(begun, self._expected())) is None:
            return False
        kind, tag = found
        if kind not in ("next", "other"):
            length = len(tag) if isinstance(tag, str) else tag.end()
            self._raw.append(begun[:length])
            self._held = begun[length:]
        if kind == "call" and not isinstance(tag, str):
            self._name, self._state, self._is_certain = tag["name"].strip(), "call", False
            self._own, self._parameters = "", set()
        elif kind == "parameter" and not isinstance(tag, str):
            self._begin_parameter(tag, pieces)
        elif kind == "call end":
            self._end_call(pieces)
        elif kind in ("closing", "next"):
            if self._state == "call":
                self._end_call(pieces)
            if tag != self._form.call.start:
                self._state = "over"
        elif kind == "stray":
            self._raw = []
        else:
            self._leave(pieces)
        return True

    def _expected(self) -> Iterator[tuple[Found, str | Tag]]:
        form = self._form
        if self._state == "call":
            yield "parameter", form.parameter
            yield "call end", form.call_end
        else:
            yield "call", form.call
        if self._is_certain or self._has_called:
            yield from (("closing", form.closing),) if form.closing else ()
            yield from (("next", form.opening),) if form.opening else ()
        if self._state == "call" and self._is_certain:
            yield "next", form.call.start
        if self._state == "calls" and self._has_called:
            yield from (("stray", mark) for mark in (form.call_end, form.parameter_end))

    def _begin_parameter(self, tag: re.Match[str], pieces: list[Piece]) -> None:
        self._make_certain(pieces)
        name = tag["name"]
        self._is_repeated = name in self._parameters
        said = tag["type"] if self._form.type_name else None
        kind = ("text" if said in STRING_TYPES else "json") if said else self._calls.kind_of(self._name, name)
        self._ended, self._value = _begun(self._form, self._calls.kinds_of(self._name), name, kind)
        if not self._is_repeated:
            comma = ", " if self._parameters else "{"
            begun = self._value.take("")
            pieces.append(self._calls.arguments(f"{comma}{json.dumps(name, ensure_ascii=False)}: {begun}"))
        self._parameters.add(name)
        self._state = "value start"

    def _begin_value(self) -> bool:
        """Read past what stands before a value. False while undecided."""
        quote, quote_end = self._form.quotes
        if not self._held or (self._held != quote and quote.startswith(self._held)):
            return False
        self._held = self._held.removeprefix(self._form.padding)
        is_quoted = bool(quote) and self._held.startswith(quote)
        if is_quoted:
            self._held = self._held.removeprefix(quote)
            self._value = self._value if isinstance(self._value, TextValue) else new_value("text")
        self._ends = value_ends(self._ended, quote_end if is_quoted else "")
        self._state, self._has_passed_end = "value", False
        return True

    def _read_value(self, pieces: list[Piece]) -> bool:
        """Take the part of the value that is certain. False while it may go on."""
        end = self._ends.whole.search(self._held)
        if end is None:
            begun = self._ends.begun.search(self._held)
            num_certain = begun.start() if begun else len(self._held)
            self._take(self._held[:num_certain], pieces)
            self._held = self._held[num_certain:]
            return False
        self._take(self._held[: end.start()], pieces)
        self._held = self._held[end.start() :]
        if self._value.is_misread and self._read_as_text():
            return True
        if self._value.may_end:
            self._held = self._held[len(end[0]) :]
            self._end_value(pieces)
        else:  # a closing tag inside a string of JSON
            num_inside = max(1, len(end[0]))
            self._take(self._held[:num_inside], pieces)
            self._held = self._held[num_inside:]
            self._has_passed_end = True
        return True

    def _read_as_text(self) -> bool:
        """Begin a held value anew if an end was passed because it looked like JSON."""
        if not self._has_passed_end or not isinstance(self._value, HeldValue):
            return False
        self._value, text = self._value.plain()
        self._held = text + self._held
        self._has_passed_end = False
        return True

    def _take(self, text: str, pieces: list[Piece]) -> None:
        written = self._value.take(text)
        if not self._is_repeated:
            pieces.append(self._calls.arguments(written))

    def _end_value(self, pieces: list[Piece]) -> bool:
        """False if the call cannot be completed."""
        written = self._value.end()
        if not self._is_repeated:
            pieces.append(self._calls.arguments(written))
        self._state = "spoilt" if self._value.is_spoilt and not self._is_repeated else "call"
        return self._state == "call"

    def _make_certain(self, pieces: list[Piece]) -> None:
        if not self._is_certain:
            self._is_certain = self._has_called = True
            self._raw = []
            pieces.append(self._calls.start(self._name))

    def _end_call(self, pieces: list[Piece]) -> None:
        self._make_certain(pieces)
        pieces += [self._calls.arguments("}" if self._parameters else "{}"), self._calls.end()]
        self._raw = []
        self._state = "over" if not self._form.closing else "calls"

    def _leave(self, pieces: list[Piece]) -> None:
        """The text goes on with something that is no part of a call."""
        if self._state == "call" and self._is_certain:
            self._state = "spoilt"
        else:
            pieces.append(Content("".join(self._raw) + self._own))
            self._held = self._held.removeprefix(self._own)
            self._state = "over"

    def _read_spoilt(self) -> str | None:
        """The text after a block that broke; None while that has not come."""
        end = self._form.closing or self._form.call_end
        _, found, rest = self._held.partition(end)
        self._held = self._held[len(self._held) - num_held(self._held, [end]) :]
        return rest if found else None


def _begun(form: TagForm, kinds: Mapping[str, str], name: str, kind: str) -> tuple[TagForm, TagValue]:
    """The form with the end of a parameter, and its value."""
    is_tree = form.elements and kind != "text"
    return form.of(name), ElementValue(form.elements, kinds, name) if is_tree else new_value(kind)


def _tag_of(text: str, expected: Iterable[tuple[Found, str | Tag]]) -> tuple[Found, str | re.Match[str]] | None:
    """The tag that the text begins with, or "other"; None while undecided."""
    is_undecided = False
    for kind, tag in expected:
        if isinstance(tag, str):
            match: re.Match[str] | bool = tag.startswith(text)
            if text.startswith(tag):
                return kind, tag
        else:
            match = tag.match(text)
        if not isinstance(match, bool):
            return kind, match
        is_undecided = is_undecided or match
    return None if is_undecided else ("other", "")
