"""Answers cut at random and read, and random texts that a grammar allows."""

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from llguidance import LLMatcher

from api.reading.dialects.dialect import ToolDialect
from api.reading.pieces import Content, ToolCallArguments, ToolCallEnd, ToolCallStart
from api.reading.tool_calls import ToolCallParser
from common.grammar.answer import Grammar
from common.grammar.check import EOS_ID, parser_limits
from tests.grammars import tokenizer

Calls = list[tuple[str, dict[str, Any]]]
TEXTS = (
    *(
        "Paris",
        "",
        " a\n\tb \n",
        '"quoted" and \\slashed\\ \'',
        "東京, Ōta 🇫🇷",
        "{x}",
        "}]",
        "</b> & <c>",
        "```\n",
        "\\u0041",
    ),
    *(
        "</tool_call>",
        "</function>",
        "<｜tool▁call▁end｜>",
        "<|tool_call_end|>",
        "<|tool_call:end|>",
        "[TOOL_CALLS]",
        "null",
    ),
)


def value(drawn: Random, depth: int = 3) -> Any:
    kind = drawn.randrange(9 if depth else 5)
    if kind < 3:
        return drawn.choice(TEXTS) + drawn.choice(("", drawn.choice(TEXTS)))
    if kind == 3:
        return drawn.choice((None, True, False))
    if kind == 4:
        return drawn.choice((0, -1, 3, 2.5, -2500.5, 1e100))
    if kind < 7:
        return [value(drawn, depth - 1) for _ in range(drawn.randrange(3))]
    return arguments(drawn, depth - 1)


def arguments(drawn: Random, depth: int = 3) -> dict[str, Any]:
    return {drawn.choice(("a", "b c", "ä", "code", "x-1")): value(drawn, depth) for _ in range(drawn.randrange(4))}


def calls(drawn: Random) -> Calls:
    return [(drawn.choice(("f", "get_weather", "a-b.c_9")), arguments(drawn)) for _ in range(drawn.randrange(1, 4))]


def cut(text: str, drawn: Random) -> Iterator[str]:
    longest, at = drawn.choice((1, 3, 10, 50)), 0
    while at < len(text):
        length = drawn.randint(1, longest)
        yield text[at : at + length]
        at += length


def read(dialect: ToolDialect, deltas: Sequence[str] | Iterator[str]) -> tuple[Calls, str]:
    """The complete calls of an answer, and its content."""
    parser = ToolCallParser(dialect, "seed")
    pieces = [piece for delta in deltas for piece in parser.feed(delta)] + parser.finish()
    texts = {piece.index: [piece.name, ""] for piece in pieces if isinstance(piece, ToolCallStart)}
    for piece in pieces:
        if isinstance(piece, ToolCallArguments):
            texts[piece.index][1] += piece.text
    ended = {piece.index for piece in pieces if isinstance(piece, ToolCallEnd)}
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    return [(name, json.loads(text)) for index, (name, text) in texts.items() if index in ended], content


def babbled(grammar: Grammar | None, drawn: Random, most: int = 4000) -> str | None:
    """A text that the grammar allows, drawn byte by byte; None for one that has not ended after `most` bytes."""
    assert grammar is not None
    matcher = LLMatcher(tokenizer(), grammar.text, log_level=0, limits=parser_limits())
    assert not matcher.is_error(), matcher.get_error()
    written = bytearray()
    while len(written) < most and not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(EOS_ID + 1) if mask[byte // 8] >> (byte % 8) & 1]
        if EOS_ID in allowed and (len(allowed) == 1 or drawn.random() < 0.5):
            return written.decode()
        allowed = [byte for byte in allowed if byte != EOS_ID]
        ends = [byte for byte in allowed if byte in b'"}]'] if drawn.random() < 0.3 else []  # or strings would not end
        byte = drawn.choice(ends or [byte for byte in allowed if byte < 0x7F] or allowed)
        matcher.consume_token(byte)
        written.append(byte)
    return written.decode() if matcher.is_accepting() else None
