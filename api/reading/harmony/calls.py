"""Harmony (gpt-oss): a call is a message to `functions.NAME` whose text is the arguments as JSON.

channels.py splits an answer into its messages; this is what it makes of those to tools.
"""

import re

from api.reading.dialects.call_grammar import PARAM, CallRules
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.json_value import JsonValue
from api.reading.harmony.channels import CALL_OPENING, CHANNEL, CONSTRAIN, ENDS, MAX_HEADER, MESSAGE, START
from api.reading.pieces import CallPieces, Content, Piece, Reasoning, num_held
from common.grammar.answer import FREE_JSON, TEXT, Grammar, MarkedText, assemble

NAMESPACE = "functions."
ANALYSIS, FINAL, PREAMBLE = f"{CHANNEL}analysis{MESSAGE}", f"{CHANNEL}final{MESSAGE}", f"{CHANNEL}commentary{MESSAGE}"
NEXT = f"<|end|>{START}assistant"
MARKS = (*ENDS, START)
MARK = re.compile("|".join(map(re.escape, MARKS)))


class HarmonyBlock:
    """From after `to=` to the end of the message.

    Text that is no JSON object is content, or reasoning if it is for a tool that the model believes to be built in.
    """

    def __init__(self, calls: CallPieces, before: str) -> None:
        self._calls = calls
        self._before = before
        self._held = ""
        self._recipient: str | None = None
        self._value: JsonValue | None = None
        self._is_text = False
        self._is_over = False  # the arguments are complete, or broken

    def read(self, text: str) -> tuple[list[Piece], str | None]:
        self._held += text
        if self._recipient is None:
            header, mark, _ = self._held[:MAX_HEADER].partition(MESSAGE)
            if not mark and len(header) == MAX_HEADER:
                return [Content(self._before)], self._held
            if not mark:
                return [], None
            self._recipient = re.split(r"\s|<", header, maxsplit=1)[0]
            self._held = self._held[len(header) + len(mark) :]
        pieces = self._take_object()
        if self._value and not self._is_over:
            return pieces, None
        end = MARK.search(self._held)
        size = end.start() if end else len(self._held) - num_held(self._held, MARKS)
        said, self._held = self._held[:size], self._held[size:]
        pieces += self._take_text(said)
        if end is None:
            return pieces, None
        rest = self._held if end[0] == START else self._held.removeprefix(end[0])
        return [*pieces, *self._ended()], rest

    def finish(self) -> list[Piece]:
        if self._recipient is None:
            return [Content(self._before + self._held)]
        return [*self._take_object(), *self._take_text(self._held), *self._ended()]

    def _take_object(self) -> list[Piece]:
        """Take the arguments as far as they have come. A mark in one of their strings is text."""
        pieces: list[Piece] = []
        if self._value is None and not self._is_text:
            self._held = self._held.lstrip()
            if not self._held.startswith("{") or not self._name:
                return []
            self._value = JsonValue()
            pieces.append(self._started())
        if self._value is None or self._is_over:
            return pieces
        for at, char in enumerate(self._held):
            took, written = self._value.take(char)
            pieces.append(self._calls.arguments(written))
            if took != "more":
                self._is_over = True
                self._held = self._held[at + (took == "last") :]
                return [*pieces, self._calls.end()] if took == "last" else pieces
        self._held = ""
        return pieces

    def _take_text(self, text: str) -> list[Piece]:
        """Text in place of arguments. What follows these is dropped."""
        if self._value or not text:
            return []
        self._is_text = True
        is_own = not self._recipient or self._recipient.startswith(NAMESPACE)
        return [(Content if is_own else Reasoning)(text)]

    def _ended(self) -> list[Piece]:
        """A message without any text is a call without arguments."""
        if self._value or self._is_text or not self._name:
            return []
        return [self._started(), self._calls.arguments("{}"), self._calls.end()]

    def _started(self) -> Piece:
        return self._calls.start(self._name)

    @property
    def _name(self) -> str:
        """The function's; '' for a message to nobody."""
        return (self._recipient or "").removeprefix(NAMESPACE)


def grammar(rules: CallRules) -> Grammar:
    """A forced call, or any messages before a last one that may be a call. A call ends the model's turn."""
    marked = rules.marked
    names = [(f"args_{number}", name) for number, (name, _) in enumerate(rules.schemas)]
    calls = [
        _call(marked, f"{CHANNEL}commentary to={NAMESPACE}{name} {CONSTRAIN}json{MESSAGE}", args)
        for args, name in names
    ]
    schemas = {
        args: {**schema, "x-guidance": dict(FREE_JSON)}
        for (args, _), (_, schema) in zip(names, rules.schemas, strict=True)
    }
    if rules.must_call:
        return assemble(["start: call", f"call: {' | '.join(calls)}"], schemas, PARAM)
    for args, name in names:
        calls.append(_call(marked, f" to={NAMESPACE}{name}{CHANNEL}commentary {CONSTRAIN}json{MESSAGE}", args))
        calls.append(_call(marked, f" to={NAMESPACE}{name}{CHANNEL}commentary json{MESSAGE}", args))
    lines = [
        "start: earlier* (final | call)",
        f"earlier: ({marked.literal(ANALYSIS)} | {marked.literal(PREAMBLE)}) body {marked.literal(NEXT)}",
        f"final: {marked.literal(FINAL)} body",
        f"body: {TEXT}",
        f"call: {' | '.join(calls)}",
    ]
    return assemble(lines, schemas, PARAM)


def _call(marked: MarkedText, header: str, args: str) -> str:
    return f"{marked.literal(header)} @{args}"


def detect(template: str, _: str) -> bool:
    return ANALYSIS in template


HARMONY = ToolDialect(
    "harmony",
    (CALL_OPENING,),
    detect,
    HarmonyBlock,
    grammar,
    further_marks=(START, CHANNEL, CONSTRAIN, MESSAGE, *ENDS),
    schema_copies=lambda _: 3,
)
