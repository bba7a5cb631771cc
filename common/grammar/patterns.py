"""Regular expressions of schemas -> expressions without look-around, which a grammar cannot have.

Look-ahead at the beginning of a pattern is an intersection: `^(?=P)R` is all texts that match both `^P` and `^R`. For a
negative one, `^(?!P)R`, an expression for the texts that do not begin with P is written where P is simple.
"""

import re
from collections.abc import Iterator, Sequence

ITEM = re.compile(  # an escape, a class, the start of a look-around, or a character
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[pPux]\{[^}]*\}|.)|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?<?[=!]|.", re.DOTALL
)
ASSERTION = re.compile(r"\\[bB1-9k]|\(\?<?[=!]")
ANY = r"[\s\S]*"


def enforceable(pattern: str) -> tuple[str, ...] | None:
    """Patterns that together allow nothing but what the pattern allows; None if it cannot be written so."""
    if not _has_assertions(pattern):
        return (pattern,)
    parts: list[str] = []
    rest = pattern.removeprefix("^")
    while rest != pattern and rest.startswith(("(?=", "(?!")):
        end = _group_end(rest)
        inner, is_positive, rest = rest[3 : end - 1], rest[2] == "=", rest[end:]
        if not end or _has_assertions(inner):
            return None
        for part in [_beginning_with(inner)] if is_positive else map(_not_beginning_with, _ways(inner)):
            if part is None:
                return None
            parts.append(part)
    if _has_assertions(rest) or len(_ways(rest)) > 1:
        return None
    return (f"^{rest}", *parts)


def _beginning_with(pattern: str) -> str | None:
    ways = _ways(pattern)
    ends = [way.endswith("$") and not way.endswith("\\$") for way in ways]
    if not any(ends):
        return f"^(?:{pattern})"
    return f"^(?:{pattern[:-1]})$" if ends == [True] else None


def _not_beginning_with(pattern: str) -> str | None:
    """An expression for texts that do not begin with the pattern: single characters, perhaps after `.*`."""
    items = list(_items(pattern))
    if items[:2] == [".", "*"]:
        return _without(items[2:])
    singles = items[:-1] if items[-1:] == ["$"] else items
    opposites = [_opposite(item) for item in singles]
    if not items or None in opposites:
        return None
    rest = "" if singles == items else r"[\s\S]+"
    for item, opposite in zip(reversed(singles), reversed(opposites), strict=True):
        rest = f"(?:{opposite}{ANY}|{item}{rest})?" if rest else f"(?:{opposite}{ANY})?"
    return f"^{rest}$"


def _without(items: Sequence[str]) -> str | None:
    """An expression for texts without a character, or without two of them in a row."""
    opposite = _opposite(items[0]) if items else None
    if opposite is None or len(set(items)) > 1 or len(items) > 2:
        return None
    return f"^{opposite}*$" if len(items) == 1 else f"^(?:{items[0]}?{opposite})*{items[0]}?$"


def _opposite(item: str) -> str | None:
    """The class of the characters that an item does not match; None for what is more than one character."""
    if item == ".":
        return r"\n"
    if item.startswith("["):
        return f"[{item[2:]}" if item.startswith("[^") else f"[^{item[1:]}"
    if len(item) == 1 and item in "^$*+?{}()|" or len(item) > 2:
        return None
    return f"[^{item}]"


def _items(pattern: str) -> Iterator[str]:
    return (match[0] for match in ITEM.finditer(pattern))


def _has_assertions(pattern: str) -> bool:
    return any(ASSERTION.match(item) for item in _items(pattern))


def _group_end(pattern: str) -> int:
    """The position after the group that the pattern begins with; 0 if it is not closed."""
    depth = 0
    for match in ITEM.finditer(pattern):
        depth += {"(": 1, ")": -1}.get(match[0][:1], 0)
        if depth == 0:
            return match.end()
    return 0


def _ways(pattern: str) -> list[str]:
    """The alternatives of a pattern, split at each `|` outside groups."""
    ways, depth = [""], 0
    for item in _items(pattern):
        depth += {"(": 1, ")": -1}.get(item[:1], 0)
        if item == "|" and depth == 0:
            ways.append("")
        else:
            ways[-1] += item
    return ways
