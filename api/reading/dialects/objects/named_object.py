"""Parses one call while it is being written, as a JSON object with one key: `{NAME: {arguments}}`."""

from typing import Literal

from api.reading.dialects.json_value import SPACE, JsonValue
from api.reading.pieces import CallPieces, Content, Piece


class NamedObject:
    """Taken character by character. No piece is given out before the arguments begin; see CallObject."""

    def __init__(self, calls: CallPieces, before: str = "") -> None:
        self._calls = calls
        self._raw = before  # all text so far, in case this is not a call
        self._state: Literal["open", "key", "name", "colon", "value", "after", "done"] = "open"
        self._name = ""
        self._value = JsonValue()
        self._is_started = False
        self.is_broken = False
        self.is_spoilt = False

    @property
    def is_done(self) -> bool:
        return self._state == "done"

    def take(self, char: str) -> list[Piece]:
        """The pieces that become certain with this character."""
        if not self._is_started:
            self._raw += char
        if self._state == "value" and (self._is_started or char not in SPACE):
            return self._take_value(char)
        if self._state == "name":
            self._take_name(char)
            return []
        if char in SPACE:
            return []
        expected: dict[tuple[str, str], Literal["key", "name", "value", "done"]] = {
            ("open", "{"): "key",
            ("key", '"'): "name",
            ("colon", ":"): "value",
            ("after", "}"): "done",
        }
        if (self._state, char) not in expected:
            return self._fail()
        self._state = expected[self._state, char]
        return []

    def finish(self) -> list[Piece]:
        """The text ends here."""
        return [] if self.is_done or self._is_started else [Content(self._raw)]

    def _take_name(self, char: str) -> None:
        if char == '"':
            self._state = "colon"
        else:
            self._name += char

    def _take_value(self, char: str) -> list[Piece]:
        if not self._is_started and (char != "{" or not self._name):
            return self._fail()
        pieces: list[Piece] = [] if self._is_started else [self._calls.start(self._name)]
        self._is_started = True
        took, text = self._value.take(char)
        pieces.append(self._calls.arguments(text))
        if took == "last":
            self._state = "after"
            pieces.append(self._calls.end())
        return pieces + self._fail() if took == "bad" else pieces

    def _fail(self) -> list[Piece]:
        self._state = "done"
        self.is_broken, self.is_spoilt = not self._is_started, self._is_started
        return [Content(self._raw)] if self.is_broken else []
