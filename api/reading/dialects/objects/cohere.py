"""Cohere: a list of `{"tool_call_id": …, "tool_name": …, "parameters": {…}}`, marked or, by Command R, in a fence."""

from api.reading.dialects.objects.call_object import CallObject
from api.reading.dialects.objects.marked_lists import Schemas, marked_lists
from api.reading.pieces import CallPieces
from common.grammar.json_schema import Schema, rebased_schema

NAME_KEYS = frozenset({"tool_name", "name"})


def new_call(calls: CallPieces, before: str) -> CallObject:
    return CallObject(calls, before, name_keys=NAME_KEYS)


def written(schemas: Schemas) -> Schema:
    """One call, without its number."""
    return {"anyOf": [_way(index, name, schema) for index, (name, schema) in enumerate(schemas)]}


def written_with_id(schemas: Schemas) -> Schema:
    number = {"type": "string", "minLength": 1, "maxLength": 3}  # the calls of a conversation are numbered
    return {"anyOf": [_way(index, name, schema, tool_call_id=number) for index, (name, schema) in enumerate(schemas)]}


def _way(index: int, name: str, schema: Schema, **before: Schema) -> Schema:
    parameters = rebased_schema(schema, f"/anyOf/{index}/properties/parameters")
    properties = {**before, "tool_name": {"const": name}, "parameters": parameters}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


COHERE = marked_lists(
    "cohere",
    "<|START_ACTION|>",
    ("<|START_ACTION|>", "<|END_ACTION|>"),
    new_call=new_call,
    written=written_with_id,
)
COMMAND_R = marked_lists(
    "command_r",
    "`directly-answer` tool",
    ("Action:\n```json\n", "```"),
    ("Action: ```json\n", "```"),
    ("Action:```json\n", "```"),
    new_call=new_call,
    written=written,
)
