"""Lark for values between tags: strings without quotes, and everything else as JSON."""

import json
import re
from dataclasses import dataclass
from types import MappingProxyType

from api.reading.dialects.call_grammar import PARAM, templated
from api.reading.dialects.tags.elements import CONTAINERS
from api.reading.dialects.tags.leaves import Leaf, json_of, leaves_of
from api.reading.dialects.tags.tag_form import TagForm
from api.reading.dialects.tags.tag_value import written_json
from api.reading.parameters import ParameterKind, kind_of, types_of
from common.errors import InvalidRequest
from common.grammar.answer import TEXT, TOKEN_ID, MarkedText, lark_regex, quoted
from common.grammar.json_schema import Schema, property_schema

MAX_COUNTED = 40  # of characters: a longer count and a text that must not occur together make too many states
BLANK = "blank"
# Texts of each type, and texts that are read as one of it.
SCALARS = MappingProxyType(
    {
        "null": "/null/",
        "boolean": "/true|false/",
        "integer": "/-?(0|[1-9][0-9]{0,15})/",
        "number": "/-?(0|[1-9][0-9]{0,15})(\\.[0-9]{1,15})?/",
    }
)
READ_AS = MappingProxyType(
    {
        "null": "/\\s*(null|None)\\s*/",
        "boolean": "/\\s*(true|false|True|False)\\s*/",
        **dict.fromkeys(("integer", "number"), "/\\s*-?[0-9](.|\\n)*/"),
        "array": "/\\s*\\[(.|\\n)*/",
        "object": "/\\s*\\{(.|\\n)*/",
        BLANK: "/\\s*/",
    }
)
UNENFORCED = frozenset({"not", "if", "then", "else"})
DATE, TIME = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])", r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
ZONE = r"(\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
LABEL, BYTE = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS = MappingProxyType(
    {
        "date": DATE,
        "time": TIME + ZONE,
        "date-time": f"{DATE}T{TIME}{ZONE}",
        "email": rf"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@{LABEL}(\.{LABEL})+",
        "hostname": rf"{LABEL}(\.{LABEL})*",
        "ipv4": rf"{BYTE}(\.{BYTE}){{3}}",
        "uri": r"[a-z][a-z0-9+.-]*:\/\/[A-Za-z0-9._~:\/?#@!$&'()*+,;=%-]+",
        "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    }
)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to write a value: the type that its tag names, and Lark for the value with the tag that ends it."""

    type: str
    value: str


class RawValues:
    """The rules and schemas of one grammar's values."""

    def __init__(self, form: TagForm, marked: MarkedText) -> None:
        self._form = form
        self._marked = marked
        self.lines: list[str] = []
        self.schemas: dict[str, Schema] = {}
        self._known: dict[str, str] = {}  # rules, by what they allow

    def ways(self, root: Schema, name: str, foreign: frozenset[str] = frozenset()) -> list[Way]:
        """How a property of `root` may be written. Raises InvalidRequest for rules that cannot be enforced.

        `foreign`: what a string must not be read as, besides the property's own types.
        """
        kind = kind_of(types_of(root["properties"][name], root))
        if kind == "json" and not self._form.type_name:
            return [Way("", self._json(templated(property_schema(root, name))))]
        leaves = leaves_of(root, name)
        strings = [leaf for leaf in leaves if leaf.type == "string"]
        others = [leaf for leaf in leaves if leaf.type != "string"]
        if self._form.type_name:
            return self._typed(strings, others, root)
        bodies = self._bodies(strings, "|".join([kind, *sorted(foreign)]))
        is_free = TEXT in bodies
        plain = {leaf.type for leaf in others if not leaf.rules}
        ruled = {leaf.type for leaf in others} - plain
        scalars = [] if is_free else [SCALARS[name] for name in sorted(plain - CONTAINERS)]
        named = [leaf for leaf in others if leaf.type not in CONTAINERS and "enum" in leaf.rules]
        scalars += [quoted(json.dumps(value)) for leaf in named for value in leaf.rules["enum"]]
        ways = [Way("", self._raw(bodies, scalars, sorted(ruled | foreign)))]
        held = [leaf for leaf in others if leaf.type in CONTAINERS and (leaf.rules or not is_free)]
        return [*ways, Way("", self._json(json_of(held, root)))] if held else ways

    def free(self, *but: str) -> str:
        """Any text but such as is read as one of these types, with the tag that ends it."""
        return self._raw([TEXT], [], list(but))

    def _typed(self, strings: list[Leaf], others: list[Leaf], root: Schema) -> list[Way]:
        """Where a tag names the type, no text can be taken for another one."""
        assert self._form.type_name
        text = self._form.type_name("string")
        ways = [Way(text, self._raw(self._bodies(strings, "text"), [], []))] if strings else []
        named: dict[str, list[Leaf]] = {}
        for leaf in others:
            named.setdefault(self._form.type_name(leaf.type), []).append(leaf)
        return [*ways, *(Way(name, self._json(json_of(leaves, root))) for name, leaves in named.items())]

    def _json(self, schema: Schema) -> str:
        key = json.dumps(schema, sort_keys=True)
        rule = self._known.setdefault(key, f"args_{len(self.schemas)}")
        self.schemas[rule] = schema
        return f"@{rule} {self._marked.literal(self._form.padding + self._form.parameter_end)}"

    def _bodies(self, strings: list[Leaf], kind: ParameterKind) -> list[str]:
        """Lark terminals of the strings that the leaves allow."""
        bodies = []
        for leaf in strings:
            if unenforced := sorted(leaf.rules.keys() & UNENFORCED):
                raise InvalidRequest(
                    f"This model's calls cannot be made to follow {unenforced[0]!r} for a string.", param=PARAM
                )
            if "enum" in leaf.rules:
                words = [
                    word
                    for word in leaf.rules["enum"]
                    if written_json(kind, word) == json.dumps(word, ensure_ascii=False)
                ]
                bodies += [quoted(word) for word in words]
            else:
                bodies.append(" & ".join(_rules_of(leaf)) or TEXT)
        return bodies

    def _raw(self, strings: list[str], scalars: list[str], ruled: list[str]) -> str:
        """A rule for one of the strings that is not read as one of the `ruled` types, or one of the scalars."""
        if not strings and not scalars:
            raise InvalidRequest("None of a parameter's values can be written in this model's calls.", param=PARAM)
        text = " | ".join(f"({body})" for body in strings)
        said = f"({text})" + "".join(f" & ~{READ_AS[name]}" for name in ruled)
        body = " | ".join([f"({said})"] * bool(strings) + scalars)
        if body not in self._known:
            self._known[body] = self._rule(f"raw_{len(self._known)}", body, text)
        return self._known[body]

    def _rule(self, rule: str, body: str, string: str) -> str:
        """The body with the tag that ends it, which it does not hold. `string`: what may stand in quotes."""
        form = self._form
        opening, closing = form.quotes
        if not opening:
            self._define(rule, body, form.padding, form.parameter_end)
            return rule
        self._define(f"{rule}_plain", f"({body}) & /[^<&\\n]*/", "", form.parameter_end)
        if not string:
            return f"{rule}_plain"
        self._define(f"{rule}_quoted", string, "", closing + form.parameter_end)
        return f"({rule}_plain | {self._marked.literal(opening)} {rule}_quoted)"

    def _define(self, rule: str, body: str, padding: str, end: str) -> None:
        terminal = rule.upper()
        first = self._marked.parts(padding + end)[0]
        head = "" if TOKEN_ID.fullmatch(first) else first  # text of the ending before a special token
        rest = (padding + end).removeprefix(head)
        is_long = any(int(count) > MAX_COUNTED for count in re.findall(r"\{\d*,(\d+)\}", body))
        ends = [re.escape(end)]
        if self._form.closing:  # these are read as an end too
            ends.append(rf"{re.escape(self._form.call_end)}\s*{re.escape(self._form.closing)}")
        if not is_long:
            body = f"({body}) & ~/(.|\\n)*({'|'.join(map(lark_regex, ends))})(.|\\n)*/"
        if rest:
            body = f"({body}) {quoted(head)}" if head else body
            self.lines += [f"{rule}: {terminal} {self._marked.literal(rest)}", f"{terminal}: {body}"]
        else:
            self.lines += [f"{rule}[lazy]: {terminal} {quoted(head)}", f"{terminal}: {body}"]


def _rules_of(leaf: Leaf) -> list[str]:
    """The terminals that a string of this leaf has to match, each."""
    rules = leaf.rules
    found = []
    if rules.get("minLength") or "maxLength" in rules:
        least, most = rules.get("minLength", 0), rules.get("maxLength", "")
        if least and most != "" and most > MAX_COUNTED:  # the tag that ends a value cannot begin it
            found.append(f"/([^<\\n]|<[^\\/|])(.|\\n){{{least - 1},{most - 1}}}/")
        else:
            found.append(f"/(.|\\n){{{least},{most}}}/")
    if "pattern" in rules:
        found.append(searched(rules["pattern"]))
    elif "format" in rules:
        if rules["format"] not in FORMATS:
            raise InvalidRequest(
                f"This model's calls cannot be made to follow the format {rules['format']!r}.", param=PARAM
            )
        found.append(f"/{FORMATS[rules['format']]}/")
    return found


def searched(pattern: str) -> str:
    """A Lark terminal of the texts in which the pattern is found."""
    ways = []
    for way in _alternatives(pattern):
        before, after = "" if way.startswith("^") else "(.|\\n)*", "(.|\\n)*"
        way = way.removeprefix("^")
        if way.endswith("$") and not re.search(r"(?<!\\)(\\\\)*\\\$\Z", way):
            way, after = way[:-1], ""
        ways.append(f"/{before}({lark_regex(way)}){after}/")
    return f"({' | '.join(ways)})"


def _alternatives(pattern: str) -> list[str]:
    """The pattern split at each `|` outside its groups."""
    ways, depth, start = [], 0, 0
    for mark in re.finditer(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|[()|]", pattern):
        depth += (mark[0] == "(") - (mark[0] == ")")
        if mark[0] == "|" and not depth:
            ways.append(pattern[start : mark.start()])
            start = mark.end()
    return [*ways, pattern[start:]]
