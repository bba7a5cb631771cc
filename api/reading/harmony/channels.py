"""Harmony (gpt-oss): an answer is several messages, each with a header that names its channel and its recipient.

    <|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>
    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}<|call|>

The recipient may also stand before the channel, as the chat template writes it. Analysis is reasoning; final, and
commentary to nobody, is content; a message to a tool is a call.
"""

import re
from typing import Literal

from api.reading.dialects.json_value import JsonValue
from api.reading.pieces import Blanks, Content, Piece, Reasoning, merged, num_held

START, CHANNEL, MESSAGE, CONSTRAIN, CALL = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>"
ENDS = ("<|end|>", CALL, "<|return|>")
CALL_OPENING = f"{CHANNEL}commentary to="
BEGINNINGS = (CHANNEL, MESSAGE, START, CONSTRAIN, "to=")  # of what may stand where no text can
BODY_END = re.compile("|".join(map(re.escape, (*ENDS, START))))
HEADER_END = re.compile("|".join(map(re.escape, (MESSAGE, *ENDS))))
RECIPIENT = re.compile(r"\bto=([^\s<]+)")
CHANNEL_NAME = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
PEOPLE = frozenset({"user", "assistant", "all"})
MAX_HEADER = 500  # characters, with the mark at its end

Kind = Literal["reasoning", "content", "call"]


class ChannelParser:
    """Feed it an answer's text. Calls come out as content in one spelling, for the dialect `harmony`.

    `passes_calls` False: nobody reads calls, so that a message to a tool is part of the reasoning.
    """

    def __init__(self, *, opened: bool = False, passes_calls: bool = True) -> None:
        self._passes_calls = passes_calls
        self._state: Literal["between", "header", "body"] = "body" if opened else "between"
        self._kind: Kind = "reasoning"
        self._blanks = Blanks()
        self._held = ""
        self._is_first = True  # no message has ended
        self._has_text = False  # in this message
        self._arguments = ArgumentsText()  # of this message, if it is a call
        self._spoken: set[Kind] = set()  # kinds of which there is text

    @property
    def is_thinking(self) -> bool:
        """The text fed so far ends inside a message of reasoning, or in its header."""
        if self._state == "header":
            return self._kind_of(self._held) == "reasoning" and CHANNEL in self._held
        return self._state == "body" and self._kind == "reasoning"

    def feed(self, text: str) -> list[Piece]:
        is_held = self._state == "between" or (self._state == "body" and self._kind == "reasoning")
        if is_held and self._blanks.hold(text):
            return []
        self._held += self._blanks.before(text)
        steps = {"between": self._read_between, "header": self._read_header, "body": self._read_body}
        pieces: list[Piece] = []
        while (more := steps[self._state]()) is not None:
            pieces += more
        return merged(pieces)

    def finish(self) -> list[Piece]:
        """The pieces held back, when no text follows."""
        held, self._held = self._held + self._blanks.before(""), ""
        if self._state == "body":
            return [] if self._kind == "reasoning" and not held.strip() else self._said(held)
        is_header = "<|" in held if self._state == "header" else not self._is_first
        return [] if is_header or not held else [Content(held)]

    def _read_between(self) -> list[Piece] | None:
        begun = self._held.lstrip()
        if begun.startswith(BEGINNINGS):
            self._held, self._state = begun, "header"
        elif begun.startswith(ENDS):  # twice, or of nothing
            self._held = begun[begun.index("|>") + 2 :]
        elif not begun or any(mark.startswith(begun) for mark in (*BEGINNINGS, *ENDS)):
            return None
        else:  # no header: an answer that the prompt began, or a model that left it out
            self._begin("content")
        return []

    def _read_header(self) -> list[Piece] | None:
        end = HEADER_END.search(self._held, 0, MAX_HEADER)
        if end is None and len(self._held) < MAX_HEADER:
            return None
        if end is None:
            self._begin("content")
            return []
        header, self._held = self._held[: end.start()], self._held[end.end() :]
        if end[0] != MESSAGE:
            self._state = "between"
            return []
        kind = self._kind_of(header)
        self._begin(kind)
        return [Content(f"{CALL_OPENING}{_recipient(header)}{MESSAGE}")] if kind == "call" else []

    def _read_body(self) -> list[Piece] | None:
        if self._kind == "call" and (size := self._arguments.num_inside(self._held)):
            said, self._held = self._held[:size], self._held[size:]
            return self._said(said)
        end = BODY_END.search(self._held)
        if end is None:
            size = len(self._held) - num_held(self._held, (*ENDS, START))
            if self._kind == "reasoning":  # the white space at its end is left out
                size = len(self._held[:size].rstrip())
            said, self._held = self._held[:size], self._held[size:]
            return self._said(said) if said else None
        said, self._held = self._held[: end.start()], self._held[end.start() :]
        if end[0] != START:
            self._held = self._held.removeprefix(end[0])
        self._state, self._is_first = "between", False
        pieces = self._said(said.rstrip() if self._kind == "reasoning" else said)
        return [*pieces, Content(CALL)] if self._kind == "call" else pieces

    def _begin(self, kind: Kind) -> None:
        self._state, self._kind, self._has_text = "body", kind, False
        self._arguments = ArgumentsText()

    def _said(self, text: str) -> list[Piece]:
        """Text of this message; an empty line stands before it if there was other text of its kind."""
        if self._kind == "reasoning" and not self._has_text:
            text = text.lstrip()
        if not text:
            return []
        if self._kind == "call":
            return [Content(text)]
        break_before = "\n\n" if not self._has_text and self._kind in self._spoken else ""
        self._has_text = True
        self._spoken.add(self._kind)
        return [(Reasoning if self._kind == "reasoning" else Content)(break_before + text)]

    def _kind_of(self, header: str) -> Kind:
        role, recipient = header.rpartition(START)[2], _recipient(header)
        if recipient and recipient not in PEOPLE:
            return "call" if self._passes_calls and _is_own(role) else "reasoning"
        names = CHANNEL_NAME.findall(header)
        return "reasoning" if not _is_own(role) or (names and names[-1].startswith("analysis")) else "content"


class ArgumentsText:
    """Follows the arguments of a call, because a mark in one of their strings is text."""

    def __init__(self) -> None:
        self._value: JsonValue | None = None
        self._is_over = False

    def num_inside(self, text: str) -> int:
        """The number of characters, at the beginning of what was not counted before, that belong to the arguments."""
        if self._is_over:
            return 0
        begun = text.lstrip()
        if self._value is None and begun[:1] != "{":
            self._is_over = bool(begun)
            return 0 if begun else len(text)
        self._value = self._value or JsonValue()
        for at, char in enumerate(text):
            took, _ = self._value.take(char)
            if took != "more":
                self._is_over = True
                return at + (took == "last")
        return len(text)


def _recipient(header: str) -> str:
    found = RECIPIENT.findall(header.rpartition(START)[2])
    return found[-1] if found else ""


def _is_own(role: str) -> bool:
    """False for a message that a model writes in another's name, such as a tool's result."""
    return not role.strip() or role.lstrip().startswith(("assistant", "<|", "to="))
