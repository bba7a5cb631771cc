"""Lark grammars without recursion as one regex, so that they can hold inside a JSON string too."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MAX_PATTERN = 16 * 1024  # characters; every use of a rule repeats it
MAX_DEPTH = 50  # of rules and groups inside one another
COMMON: Mapping[str, str] = MappingProxyType(
    {
        "LF": r"\n",
        "CR": r"\r",
        "NEWLINE": r"(?:\r?\n)+",
        "WS": r"[ \t\f\r\n]+",
        "WS_INLINE": r"[ \t]+",
        "DIGIT": "[0-9]",
        "INT": "[0-9]+",
        "LETTER": "[A-Za-z]",
        "WORD": "[A-Za-z]+",
    }
)
COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
RULE = re.compile(r"^[?!]*([A-Za-z_]\w*)(?:\.-?\d+)?\s*:(?!:)", re.MULTILINE)
IMPORT = re.compile(r"^%import\s+common\.(\w+)\s*$", re.MULTILINE)
TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\\n])*")(?!i)|/(?P<regex>(?:\\.|[^/\\\n])+)/(?![a-z])"""
    r"""|(?P<repeat>[?*+]|\{\d+(?:,\d*)?\})|(?P<alias>->\s*\w+)|(?P<name>[A-Za-z_]\w*)|(?P<mark>[()|\[\]]))"""
)


class NotRegular(Exception):
    """The grammar recurs, is too large as a regex, or uses notation that is not read here."""


def lark_pattern(grammar: str) -> str | None:
    """The regex of the texts that `start` allows; None if there is none, or if it is too large."""
    lines = IMPORT.sub("", COMMENT.sub("", grammar))
    heads = list(RULE.finditer(lines))
    if not heads or lines[: heads[0].start()].strip():
        return None
    ends = [head.start() for head in heads[1:]] + [len(lines)]
    rules = {head[1]: lines[head.end() : end] for head, end in zip(heads, ends, strict=True)}
    imported = {name: COMMON[name] for name in IMPORT.findall(grammar) if name in COMMON}
    try:
        return Expander(rules, imported).rule("start", ())
    except NotRegular:
        return None


@dataclass(frozen=True, slots=True)
class Expander:
    """Writes each rule as a regex, with the rules it refers to in their places."""

    rules: Mapping[str, str]
    imported: Mapping[str, str]

    def rule(self, name: str, outer: tuple[str, ...]) -> str:
        if name in self.imported and name not in self.rules:
            return self.imported[name]
        if name not in self.rules or name in outer or len(outer) > MAX_DEPTH:
            raise NotRegular
        return self._expression(_tokens(self.rules[name]), (*outer, name), closing="")

    def _expression(self, tokens: list[tuple[str, str]], outer: tuple[str, ...], closing: str) -> str:
        """Alternatives up to the `closing` mark, taken from the end of `tokens`."""
        ways: list[list[str]] = [[]]
        while tokens:
            kind, token = tokens.pop()
            if token == closing and kind == "mark":
                closing = ""
                break
            if (kind, token) == ("mark", "|"):
                ways.append([])
            elif kind == "repeat":
                if not ways[-1]:
                    raise NotRegular
                ways[-1][-1] += token
            elif kind != "alias":
                ways[-1].append(f"(?:{self._item(kind, token, tokens, outer)})")
        pattern = "|".join("".join(way) for way in ways)
        if closing or len(pattern) > MAX_PATTERN:
            raise NotRegular
        return pattern

    def _item(self, kind: str, token: str, tokens: list[tuple[str, str]], outer: tuple[str, ...]) -> str:
        if kind == "text":
            return re.escape(str(json.loads(token)))
        if kind == "regex":
            return token.replace("\\/", "/")
        if kind == "name":
            return self.rule(token, outer)
        if token not in "([" or len(outer) > MAX_DEPTH:
            raise NotRegular
        inner = self._expression(tokens, (*outer, token), closing=")" if token == "(" else "]")
        return inner if token == "(" else f"(?:{inner})?"


def _tokens(text: str) -> list[tuple[str, str]]:
    """The tokens of a rule's right side, the first one last."""
    found: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        token = TOKEN.match(text, position)
        if token is None or token.lastgroup is None:
            raise NotRegular
        found.append((token.lastgroup, token[token.lastgroup]))
        position = token.end()
    return found[::-1]
