"""Lark for values between tags: strings without quotes, and everything else as JSON."""

import json
import re
from dataclasses import dataclass
from types import MappingProxyType

from api.reading.dialects.call_grammar import PARAM, templated
from api.reading.dialects.tags.leaves import Leaf, json_of, leaves_of
from api.reading.dialects.tags.tag_form import TagForm
from api.reading.dialects.tags.tag_value import written_json
from api.reading.parameters import ParameterKind, kind_of, types_of
from common.errors import InvalidRequest
from common.grammar.answer import TEXT, TOKEN_ID, MarkedText, lark_regex, quoted
from common.grammar.json_schema import Schema, property_schema

CONTAINERS = frozenset({"array", "object"})
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
        self._free = ""

    def ways(self, root: Schema, name: str) -> list[Way]:
        """How a property of `root` may be written. Raises InvalidRequest for rules that cannot be enforced."""
        kind = kind_of(types_of(root["properties"][name], root))
        if kind == "json" and not self._form.type_name:
            return [Way("", self._json(templated(property_schema(root, name))))]
        leaves = leaves_of(root, name)
        strings = [leaf for leaf in leaves if leaf.type == "string"]
        others = [leaf for leaf in leaves if leaf.type != "string"]
        if self._form.type_name:
            return self._typed(strings, others, root)
        bodies = self._bodies(strings, kind)
        is_free = TEXT in bodies
        plain = {leaf.type for leaf in others if not leaf.rules}
        ruled = {leaf.type for leaf in others} - plain
        if not is_free:
            bodies += [SCALARS[name] for name in sorted(plain - CONTAINERS)]
        scalars = [leaf for leaf in others if leaf.type not in CONTAINERS]
        words = [quoted(json.dumps(value)) for leaf in scalars for value in leaf.rules.get("enum", ())]
        ways = [Way("", self._raw(bodies, words, sorted(ruled)))]
        held = [leaf for leaf in others if leaf.type in CONTAINERS and (leaf.rules or not is_free)]
        return [*ways, Way("", self._json(json_of(held, root)))] if held else ways

    def free(self) -> str:
        """Any text, with the tag that ends it."""
        return self._raw([TEXT], [], [])

    def _typed(self, strings: list[Leaf], others: list[Leaf], root: Schema) -> list[Way]:
        """Where a tag names the type, no text can be taken for another one."""
        assert self._form.type_name
        ways = (
            [Way(self._form.type_name("string"), self._raw(self._bodies(strings, "text"), [], []))] if strings else []
        )
        named: dict[str, list[Leaf]] = {}
        for leaf in others:
            named.setdefault(self._form.type_name(leaf.type), []).append(leaf)
        return [*ways, *(Way(name, self._json(json_of(leaves, root))) for name, leaves in named.items())]

    def _json(self, schema: Schema) -> str:
        rule = f"args_{len(self.schemas)}"
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

    def _raw(self, bodies: list[str], words: list[str], ruled: list[str]) -> str:
        """Any of the bodies that is not read as one of the `ruled` types, or one of the words."""
        if bodies == [TEXT] and not ruled:
            self._free = self._free or self._rule("free_value", TEXT)
            return self._free
        text = f"({' | '.join(f'({body})' for body in bodies)})" + "".join(f" & ~{READ_AS[name]}" for name in ruled)
        return self._rule(f"raw_{len(self.lines)}", " | ".join([f"({text})", *words]))

    def _rule(self, rule: str, body: str) -> str:
        """A rule for the body with the tag that ends it; the body does not hold that tag."""
        form = self._form
        open_quote, end_quote = form.quotes
        if not open_quote:
            self._define(rule, body, form.padding, form.parameter_end)
            return rule
        self._define(f"{rule}_plain", f"({body}) & /[^<&\\n]*/", "", form.parameter_end)
        self._define(f"{rule}_quoted", body, "", end_quote + form.parameter_end)
        return f"({rule}_plain | {self._marked.literal(open_quote)} {rule}_quoted)"

    def _define(self, rule: str, body: str, padding: str, end: str) -> None:
        terminal = rule.upper()
        without_end = f"({body}) & ~/(.|\\n)*{lark_regex(re.escape(end))}(.|\\n)*/"
        head, *tail = self._marked.parts(padding + end)
        if TOKEN_ID.fullmatch(head):
            self.lines += [f"{rule}: {terminal} {self._marked.literal(end)}", f"{terminal}: {without_end}"]
        elif tail:
            rest = self._marked.literal((padding + end)[len(head) :])
            self.lines += [f"{rule}: {terminal} {rest}", f"{terminal}: ({without_end}) {quoted(head)}"]
        else:
            self.lines += [f"{rule}[lazy]: {terminal} {quoted(head)}", f"{terminal}: {without_end}"]


def _rules_of(leaf: Leaf) -> list[str]:
    """The terminals that a string of this leaf has to match, each."""
    rules = leaf.rules
    found = []
    if rules.get("minLength") or "maxLength" in rules:
        found.append(f"/(.|\\n){{{rules.get('minLength', 0)},{rules.get('maxLength', '')}}}/")
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
