"""A chat request with tools and response formats, and its grammar."""

import json

from api.chat.prepare import chat_input
from api.schema.chat import ChatRequest
from api.schema.parse import parse
from common.grammar.check import GrammarCheck

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {"name": "add", "parameters": SCHEMA, "strict": True}}
NAMED = {"type": "function", "function": {"name": "add"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
GRAMMARS = GrammarCheck()


def prepared(encoder, **changes):
    return chat_input(parse(ChatRequest, BODY | changes), encoder, GRAMMARS)


def grammar(encoder, **changes):
    text = prepared(encoder, **changes).sampling.grammar
    return None if text is None else json.dumps(json.loads(text))
