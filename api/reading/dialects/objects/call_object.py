"""Parses one call while it is being written, as a JSON object with a name and arguments."""

import json
from typing import Literal

from api.reading.dialects.json_value import QUOTES, SPACE, JsonValue, strict_json
from api.reading.pieces import CallPieces, Content, Piece

NAME_KEYS = frozenset({"name", "function"})
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
OTHER_KEYS = frozenset({"id", "type", "tool_call_id"})


class CallObject:
    """One call written as `{"name": …, "arguments": {…}}`, taken character by character. It may stand in `"function"`.

    No piece is given out before the call is certain: it has a name and begins its arguments. If that never happens,
    `is_broken` is set and the text comes out as content. A later fault ends the call where it stands (`is_spoilt`).
    """

    def __init__(
        self,
        calls: CallPieces,
        before: str = "",
        *,
        needs_arguments: bool = False,
        name_keys: frozenset[str] = NAME_KEYS,
    ) -> None:
        self._calls = calls
        self._name_keys = name_keys
        self._raw = [before]  # all text so far, in case this is not a call
        self._needs_arguments = needs_arguments
        self._state: Literal["open", "key", "colon", "value", "after", "done"] = "open"
        self._key = ""
        self._value = JsonValue()
        self._text: list[str] = []  # of the key or value being read
        self._name: str | None = None
        self._arguments: str | None = None  # read before the name
        self._is_started = False
        self._is_inside = False  # of the object in `"function"`
        self.is_broken = False
        self.is_spoilt = False

    @property
    def is_done(self) -> bool:
        return self._state == "done"

    def take(self, char: str) -> list[Piece]:
        """The pieces that become certain with this character."""
        if not self._is_started:
            self._raw.append(char)
        if self._state == "value":
            return self._take_value(char)
        if self._state == "key" and self._text:
            return self._take_key(char)
        if char in SPACE:
            return []
        if self._state == "open" and char == "{":
            self._state = "key"
        elif self._state == "key" and char in QUOTES:
            self._text = [char]
        elif self._state == "colon" and char == ":":
            self._state, self._value, self._text = "value", JsonValue(), []
        elif self._state == "after" and char == ",":
            self._state, self._text = "key", []
        elif self._state in ("after", "key") and char == "}":
            return self._end()
        else:
            return self._fail()
        return []

    def finish(self) -> list[Piece]:
        """The text ends here."""
        return [] if self.is_done or self._is_started else [Content("".join(self._raw))]

    def _take_key(self, char: str) -> list[Piece]:
        self._text.append(char)
        if char != self._text[0]:
            return []
        self._key, self._text, self._state = "".join(self._text[1:-1]), [], "colon"
        is_known = self._key in self._name_keys | ARGUMENT_KEYS | OTHER_KEYS
        if self._is_started or self._arguments is not None:
            self._key = "name" if self._key in self._name_keys else ""  # only the first arguments count
        return [] if is_known or self._is_started else self._fail()

    def _take_value(self, char: str) -> list[Piece]:
        if not self._text and char in SPACE:
            return []
        if not self._text and char == "{" and self._key == "function" and not self._is_inside:
            self._is_inside, self._state = True, "key"
            return []
        took, text = self._value.take(char)
        self._text.append(text)
        if took == "beyond":
            pieces = self._end_value()
            return pieces if self.is_done else pieces + self._after_scalar(char)
        pieces = self._stream(text)
        if took == "bad":
            return pieces + self._fail()
        return pieces + self._end_value() if took == "last" else pieces

    def _after_scalar(self, char: str) -> list[Piece]:
        if char == "}":
            return self._end()
        if char == ",":
            self._state, self._text = "key", []
        return []

    def _stream(self, text: str) -> list[Piece]:
        """Arguments stream once the name is known, except those written as a string, which must be decoded first."""
        if self._key not in ARGUMENT_KEYS or self._name is None or self._text[0] != "{":
            return []
        return [*self._start(), self._calls.arguments(text)]

    def _end_value(self) -> list[Piece]:
        self._state = "after"
        if self._key in self._name_keys and self._name is None:
            return self._end_name()
        if self._key not in ARGUMENT_KEYS:
            return []
        if self._is_started:
            return [self._calls.end()]
        arguments = decoded_arguments("".join(self._text))
        if arguments is None:
            return self._fail()
        if self._name is None:
            self._arguments = arguments
            return []
        return self._whole(arguments)

    def _end_name(self) -> list[Piece]:
        name = _loaded("".join(self._text))
        if not isinstance(name, str) or not name:
            return self._fail()
        self._name = name
        return [] if self._arguments is None else self._whole(self._arguments)

    def _whole(self, arguments: str) -> list[Piece]:
        return [*self._start(), self._calls.arguments(arguments), self._calls.end()]

    def _start(self) -> list[Piece]:
        if self._is_started or self._name is None:
            return []
        self._is_started = True
        return [self._calls.start(self._name)]

    def _end(self) -> list[Piece]:
        if self._is_inside:
            self._is_inside, self._state = False, "after"
            return []
        if not self._is_started and (self._name is None or self._needs_arguments):
            return self._fail()
        self._state = "done"
        return [] if self._is_started else self._whole("{}")

    def _fail(self) -> list[Piece]:
        self._state = "done"
        self.is_broken, self.is_spoilt = not self._is_started, self._is_started
        return [Content("".join(self._raw))] if self.is_broken else []


def decoded_arguments(text: str) -> str | None:
    """Arguments as JSON text, also if they were written as a string of JSON; None if they are not an object."""
    value = _loaded(text)
    written = strict_json(value) if isinstance(value, str) else "{}" if text == "null" else text
    return written if written and written[0] == "{" else None


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
