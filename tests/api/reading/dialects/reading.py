"""What tests of dialects share: an answer in pieces, its calls, random cuttings and random arguments."""

from random import Random
from typing import Any

from api.reading.dialects.known import dialect_named
from api.reading.parameters import NO_KINDS, Kinds
from api.reading.pieces import Content, Piece, ToolCallArguments, ToolCallStart, merged
from api.reading.tool_calls import ToolCallParser

PARTS = (
    '"',
    "'",
    "\\",
    "\n",
    "\t",
    "\\n",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    "=",
    "東京",
    "é",
    "😀",
    " ",
    "a",
    "x=1",
)
SCALARS = (0, -7, 2.5, 1e20, True, False, None)


def parse(name: str, deltas: list[str], kinds: Kinds = NO_KINDS) -> list[Piece]:
    parser = ToolCallParser(dialect_named(name), "job-1/0", kinds)
    pieces = [piece for delta in deltas for piece in parser.feed(delta)]
    return merged([*pieces, *parser.finish()])


def calls(pieces: list[Piece]) -> tuple[list[tuple[str, str]], str]:
    """(name, arguments) of every call, and the content around them."""
    names = {piece.index: piece.name for piece in pieces if isinstance(piece, ToolCallStart)}
    written = dict.fromkeys(names, "")
    for piece in pieces:
        if isinstance(piece, ToolCallArguments):
            written[piece.index] += piece.text
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    return [(names[index], written[index]) for index in sorted(names)], content


def cuttings(text: str, rng: Random) -> list[list[str]]:
    """The text as a whole, character by character, and cut at random."""
    edges = sorted({0, len(text), *(rng.randint(0, len(text)) for _ in range(8))})
    return [[text], list(text), [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]]


def a_text(rng: Random, parts: tuple[str, ...] = PARTS) -> str:
    return "".join(rng.choice(parts) for _ in range(rng.randint(0, 8)))


def a_value(rng: Random, parts: tuple[str, ...] = PARTS, depth: int = 2) -> Any:
    kind = rng.randrange(4 if depth else 2)
    if kind == 0:
        return rng.choice(SCALARS)
    if kind == 1:
        return a_text(rng, parts)
    if kind == 2:
        return [a_value(rng, parts, depth - 1) for _ in range(rng.randint(0, 3))]
    return {f"k{number}": a_value(rng, parts, depth - 1) for number in range(rng.randint(0, 3))}


def arguments_of(rng: Random, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    return {name: a_value(rng, parts) for name in rng.sample(["city", "a", "b_c", "Days"], rng.randint(0, 3))}
