"""DeepSeek V3.2: a `function_calls` block of `invoke` tags, whose `parameter` tags hold plain strings or JSON."""

import json
import re
from typing import Literal

from api.reading.json_value import strict_json
from api.reading.pieces import CallPieces, Content, Piece, num_held

DSML = "｜DSML｜"
OPENING = f"<{DSML}function_calls>"
CLOSING = f"</{DSML}function_calls>"
INVOKE_END = f"</{DSML}invoke>"
PARAMETER_END = f"</{DSML}parameter>"
INVOKE = re.compile(f'<{DSML}invoke name="([^"]+)">')
PARAMETER = re.compile(f'<{DSML}parameter name="([^"]+)" string="(true|false)">')
MAX_TAG = 512


class DsmlBlock:
    """From after the opening `function_calls` tag to the closing one."""

    def __init__(self, calls: CallPieces, before: str) -> None:
        self._calls = calls
        self._before = before  # text of the block so far, until a call is certain
        self._held = ""
        self._state: Literal["calls", "invoke", "string", "json", "spoilt"] = "calls"
        self._num_parameters = 0
        self._json = ""  # a value that may have to be mended
        self._has_called = False

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        """Pieces, and the text that follows the block once it has ended."""
        self._held += text
        pieces: list[Piece] = []
        while True:
            if self._state in ("string", "json"):
                has_moved = self._read_value(pieces)
            elif self._state == "spoilt":
                _, closing, rest = self._held.partition(CLOSING)
                self._held = self._held[len(self._held) - num_held(self._held, [CLOSING]) :]
                return pieces, rest if closing else None
            else:
                tag = self._next_tag()
                if tag == CLOSING and self._state == "calls" and self._has_called:
                    return pieces, self._held
                has_moved = tag is not None
                if tag is not None and not self._read_tag(tag, pieces):
                    if not self._has_called:
                        return [Content(self._before)], self._held
                    self._state = "spoilt"
            if not has_moved:
                return pieces, None

    def finish(self) -> list[Piece]:
        return [] if self._has_called else [Content(self._before + self._held)]

    def _next_tag(self) -> str | None:
        """The next tag, or a character that begins none; None while that is open."""
        begun = self._held.lstrip()
        end = begun.find(">") + 1
        if not begun or (begun[0] == "<" and not end and len(begun) <= MAX_TAG):
            return None
        tag = begun[:end] if begun[0] == "<" and end else begun[0]
        num_read = len(self._held) - len(begun) + len(tag)
        if not self._has_called:
            self._before += self._held[:num_read]
        self._held = self._held[num_read:]
        return tag

    def _read_tag(self, tag: str, pieces: list[Piece]) -> bool:
        """Whether the tag belongs where it stands."""
        if self._state == "calls" and (invoke := INVOKE.fullmatch(tag)):
            self._state, self._num_parameters, self._has_called = "invoke", 0, True
            pieces.append(self._calls.start(invoke[1]))
        elif self._state == "invoke" and (parameter := PARAMETER.fullmatch(tag)):
            is_string = parameter[2] == "true"
            comma = ", " if self._num_parameters else "{"
            self._num_parameters += 1
            self._state, self._json = ("string" if is_string else "json"), ""
            quote = '"' if is_string else ""
            pieces.append(self._calls.arguments(f"{comma}{json.dumps(parameter[1], ensure_ascii=False)}: {quote}"))
        elif self._state == "invoke" and tag == INVOKE_END:
            self._state = "calls"
            pieces += [self._calls.arguments("}" if self._num_parameters else "{}"), self._calls.end()]
        else:
            return False
        return True

    def _read_value(self, pieces: list[Piece]) -> bool:
        """Move on by what is certain of a value; whether it has ended."""
        value, closing, rest = self._held.partition(PARAMETER_END)
        if not closing:
            value = value[: len(value) - num_held(value, [PARAMETER_END])]
            rest = self._held[len(value) :]
        self._held = rest
        if self._state == "string":
            written = json.dumps(value, ensure_ascii=False)[1:-1] + ('"' if closing else "")
            pieces.append(self._calls.arguments(written))
        else:
            self._json += value
            pieces += [self._calls.arguments(_as_json(self._json))] if closing else []
        if closing:
            self._state = "invoke"
        return bool(closing)


def _as_json(value: str) -> str:
    """The value as strict JSON; one that is no JSON was meant as a string."""
    return strict_json(value) or json.dumps(value, ensure_ascii=False)
