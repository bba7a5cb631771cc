"""Grammars of an answer's text: JSON, a schema, a regex, choices or a caller's own rules, as llguidance's JSON.

The result is SamplingParams.grammar. This code is fast and bounded; whether a grammar compiles is tested by check.py.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import orjson
from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

from common.errors import InvalidRequest
from common.grammar.json_schema import MAX_REPEATS, MAX_SCHEMA_DEPTH, Schema, checked_schema, is_costly, repeats
from common.json_bounds import bounded_marks

MAX_GRAMMAR_BYTES = 64 * 1024
MAX_CHOICES = 2_000
MAX_NESTING = 100  # of groups in a caller's grammar or regex
LARGE_GRAMMAR_BYTES = 8 * 1024  # a grammar of this size takes noticeable time to compile
BOUNDED_WHITESPACE = (
    r"[\x20\x0A\x0D\x09]{1,40}"  # without the bound a small model may indent until it reaches max_tokens
)
FREE_JSON: Mapping[str, Any] = MappingProxyType({"whitespace_pattern": BOUNDED_WHITESPACE})
TEXT = "/(.|\\n)*/"
# Without a terminal of its own, which matches nothing, llguidance panics at white space where only one of two JSON
# grammars allows that.
EITHER = "start: @either_calls | @either_answer | NOTHING\nNOTHING: /a/ & /b/"
CLASS_OR_ESCAPE = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.")
STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
TOKEN_ID = re.compile(r"<\[\d+\]>")


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar, the request field it came from, and whether it may take long to compile."""

    text: str
    param: str
    is_costly: bool


@dataclass(frozen=True, slots=True)
class MarkedText:
    """Writes literal text as Lark. Special tokens are written by their ids, because they are never read as text."""

    special_tokens: Mapping[str, int]

    def literal(self, text: str) -> str:
        """The text as a sequence of Lark strings and token ids."""
        return self._joined(self.parts(text))

    def until(self, rule: str, text: str) -> list[str]:
        """Lines that define `rule`: anything up to and including the first `text`."""
        head, *tail = self.parts(text)
        if TOKEN_ID.fullmatch(head):
            return [f"{rule}: {rule}_text {self._joined([head, *tail])}", f"{rule}_text: {TEXT}"]
        if not tail:
            return [f"{rule}[lazy]: {TEXT} {quoted(head)}"]
        ending = re.escape(head).replace("/", "\\/")
        return [f"{rule}: {rule}_text {self._joined(tail)}", f"{rule}_text: {TEXT[:-1]}{ending}/"]

    def _joined(self, parts: Sequence[str]) -> str:
        return " ".join(part if TOKEN_ID.fullmatch(part) else quoted(part) for part in parts)

    def parts(self, text: str) -> list[str]:
        """The text split at its special tokens, each replaced by its id."""
        present = sorted((token for token in self.special_tokens if token and token in text), key=len, reverse=True)
        if not present:
            return [text]
        pieces = re.split("(" + "|".join(map(re.escape, present)) + ")", text)
        return [f"<[{self.special_tokens[piece]}]>" if piece in present else piece for piece in pieces if piece]


def marked_text(tokenizer: str) -> MarkedText:
    """The tokens of a tokenizer.json that llguidance does not read as text: special ones, and all in <brackets>."""
    added = orjson.loads(tokenizer).get("added_tokens", [])
    return MarkedText(
        {token["content"]: token["id"] for token in added if token["special"] or is_bracketed(token["content"])}
    )


def quoted(text: str) -> str:
    """A Lark string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def assemble(main: Sequence[str], schemas: Mapping[str, Schema], param: str) -> Grammar:
    """A grammar of Lark lines, which may refer to the schemas as `@name`."""
    parts: list[dict[str, Any]] = [
        {"lark_grammar": "\n".join(main)},
        *({"name": name, "json_schema": schemas[name]} for name in schemas),
    ]
    return sized(parts, param, is_costly=any(map(is_costly, schemas.values())))


def json_object_grammar(param: str = "response_format") -> Grammar:
    """Any JSON object."""
    return sized([{"json_schema": {"type": "object", "x-guidance": dict(FREE_JSON)}}], param, is_costly=False)


def json_schema_grammar(schema: Any, param: str, *, strict: bool = True) -> Grammar:
    """JSON that the schema allows. If not strict, keywords that cannot be enforced are ignored."""
    checked = checked_schema(schema, param, strict=strict)
    options = {**FREE_JSON} if strict else {**FREE_JSON, "lenient": True}
    return sized([{"json_schema": {**checked, "x-guidance": options}}], param, is_costly=is_costly(checked))


def regex_grammar(pattern: Any, param: str) -> Grammar:
    """Text that the whole pattern matches."""
    if not isinstance(pattern, str) or not pattern:
        raise InvalidRequest("The regex must be a string with something in it.", param=param)
    if repeats(pattern) > MAX_REPEATS:
        raise InvalidRequest(f"The regex repeats more than {MAX_REPEATS} times.", param=param)
    refuse_deep(pattern, param)
    return sized([{"lark_grammar": f"start: /{lark_regex(pattern)}/"}], param, is_costly=True)


def lark_regex(pattern: str) -> str:
    """A pattern as it stands between slashes."""
    spelled = {"/": "\\/", "\n": "\\n", "\\\n": "\\n"}  # a line of Lark ends at a line's end, escaped or not
    return re.sub(r"(?s)\\.|/|\n", lambda match: spelled.get(match[0], match[0]), pattern)


def choice_grammar(choices: Any, param: str) -> Grammar:
    """Exactly one of the texts."""
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
        raise InvalidRequest("The choices must be a list of texts, none of them empty.", param=param)
    if len(choices) > MAX_CHOICES:
        raise InvalidRequest(f"There may be at most {MAX_CHOICES} choices.", param=param)
    lark = f"start: CHOICE\nCHOICE: {' | '.join(map(quoted, choices))}"  # a terminal is one lexeme
    return sized([{"lark_grammar": lark}], param, is_costly=False)


def ebnf_grammar(grammar: Any, param: str) -> Grammar:
    """A grammar in Lark's or in llama.cpp's (GBNF) notation."""
    if not isinstance(grammar, str) or not grammar.strip():
        raise InvalidRequest("The grammar must be a string with something in it.", param=param)
    refuse_large(len(grammar.encode()), param)
    refuse_deep(STRING.sub("", grammar), param)
    try:
        lark = any_to_lark(grammar)
    except (GbnfToLarkError, ValueError, IndexError, KeyError, RecursionError) as error:
        raise InvalidRequest(f"The grammar cannot be read: {str(error)[:200]}", param=param) from error
    return sized([{"lark_grammar": lark}], param, is_costly=True)


def refuse_deep(text: str, param: str) -> None:
    """Raises InvalidRequest for groups that are nested deeper than llguidance's parsers can follow."""
    marks = re.findall(r"[()]", CLASS_OR_ESCAPE.sub("", text))
    if max(accumulate(1 if mark == "(" else -1 for mark in marks), default=0) > MAX_NESTING:
        raise InvalidRequest(
            f"'{param}' has more than {MAX_NESTING} groups inside one another: leave out parentheses, or give inner "
            "groups rules of their own.",
            param=param,
        )


def structured_grammar(options: Any, param: str = "structured_outputs") -> Grammar:
    """vLLM's `structured_outputs`: exactly one of json, json_object, regex, choice, grammar."""
    if not isinstance(options, dict):
        raise InvalidRequest(f"'{param}' must be an object.", param=param)
    builders = {
        "json": lambda value, name: json_schema_grammar(json_value(value, name), name),
        "json_object": lambda value, name: json_object_grammar(name),
        "regex": regex_grammar,
        "choice": choice_grammar,
        "grammar": ebnf_grammar,
    }
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if unknown := sorted(given.keys() - builders.keys()):
        raise InvalidRequest(f"'{param}.{unknown[0]}' is not supported.", param=f"{param}.{unknown[0]}")
    if len(given) != 1:
        raise InvalidRequest(f"'{param}' must have exactly one of {', '.join(builders)}.", param=param)
    [(kind, value)] = given.items()
    return builders[kind](value, f"{param}.{kind}")


def json_value(value: Any, param: str) -> Any:
    """The schema itself, also if it was sent as a string. The bounds of request bodies apply."""
    if not isinstance(value, str):
        return value
    bounded_marks(value.encode())
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"'{param}' is not JSON: {error}", param=param) from error


def either(calls: Grammar, answer: Grammar) -> Grammar:
    """Either grammar; the beginning of the text decides."""
    parts: list[dict[str, Any]] = [{"lark_grammar": EITHER}]
    for name, grammar in (("either_calls", calls), ("either_answer", answer)):
        head, *others = orjson.loads(grammar.text)["grammars"]
        parts += [{**head, "name": name}, *others]
    return sized(parts, answer.param, is_costly=calls.is_costly or answer.is_costly)


def is_bracketed(token: str) -> bool:
    return token.startswith("<") and token.endswith(">")


def sized(parts: Sequence[Mapping[str, Any]], param: str, *, is_costly: bool) -> Grammar:
    """The grammar of these parts. Raises InvalidRequest if it is too large, too deep or not JSON."""
    try:
        text = orjson.dumps({"grammars": parts})
    except (TypeError, RecursionError) as error:
        raise InvalidRequest(
            f"Nested too deeply or not JSON (limit: {MAX_SCHEMA_DEPTH} levels).", param=param
        ) from error
    refuse_large(len(text), param)
    return Grammar(text.decode(), param, is_costly or len(text) > LARGE_GRAMMAR_BYTES)


def refuse_large(num_bytes: int, param: str) -> None:
    """Raises InvalidRequest if a grammar of at least `num_bytes` exceeds the limit."""
    if num_bytes > MAX_GRAMMAR_BYTES:
        raise InvalidRequest(f"The grammar has {num_bytes} bytes; the limit is {MAX_GRAMMAR_BYTES}.", param=param)
