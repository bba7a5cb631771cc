"""Grammars in tests: which texts one allows, and schemas to build them from."""

from functools import cache
from typing import Any

from llguidance import LLMatcher

from common.grammar.answer import Grammar, MarkedText
from common.grammar.check import bytes_tokenizer, parser_limits

PLAIN = MarkedText({})
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["next"],
}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "$defs": {"node": NODE},
}


def allows(grammar: Grammar | None, text: str) -> bool:
    """True if the grammar allows the text as a complete answer."""
    assert grammar is not None
    matcher = LLMatcher(tokenizer(), grammar.text, log_level=0, limits=parser_limits())
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@cache
def tokenizer() -> Any:
    return bytes_tokenizer()
