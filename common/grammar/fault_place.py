"""Where in a schema the fault is that a grammar's compiler found, and what its keyword takes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from common.grammar.json_schema import TYPES, Schema, rebased_schema
from common.grammar.settled import ENFORCED_FORMATS
from common.grammar.subschemas import Subschema, children

ALL_TYPES, ALL_FORMATS = ", ".join(sorted(TYPES)), ", ".join(sorted(ENFORCED_FORMATS))
DEFINITIONS = ("$defs", "definitions")
WHOLE = "/$defs/whole"  # where the whole schema stands while a part is compiled
# A fault as llguidance words it; its keyword, None: a group names it; what that takes, where the fault does not say.
FAULTS: Sequence[tuple[re.Pattern[str], str | None, str]] = (
    (re.compile(r"Invalid type:|type must be"), "type", f"It is one of {ALL_TYPES}, or a list of these."),
    (re.compile(r"Unknown format:"), "format", f"These can: {ALL_FORMATS}."),
    (re.compile(r"Unimplemented keys: ..([^\"]+)"), None, "Leave it out, or describe it to the model in words."),
    (re.compile(r"(oneOf) constraints are not supported"), None, "Write anyOf."),
    (re.compile(r"Pointer '.*' does not exist"), "$ref", "Name a schema that is there, such as '#/$defs/item'."),
    (re.compile(r"invalid multiple of"), "multipleOf", "It is a number above 0."),
    (re.compile(r"regex parse error"), "pattern", ""),
    (re.compile(r"Expected .* for '([^']+)'"), None, ""),
    (re.compile(r"(\w+) must be an? "), None, ""),
)
Compile = Callable[[str], str | None]  # the text of a grammar -> its fault


def placed(text: str, fault: str, compile_: Compile) -> tuple[str, str]:
    """The place of the fault in the schema (\"\": not known, or all of it), and the fault with what is allowed there.

    `text`: of the grammar with this fault. Only that of a single schema is looked into.
    """
    schemas = [part["json_schema"] for part in orjson.loads(text)["grammars"] if "json_schema" in part]
    if len(schemas) != 1 or _fault_of(schemas[0], compile_) != fault:
        return "", fault
    place, node = _deepest(schemas[0], fault, compile_)
    for pattern, keyword, allowed in FAULTS:
        if found := pattern.match(fault):
            keyword = keyword or found[1]
            is_there = isinstance(node, dict) and keyword in node
            return place + f".{keyword}" * is_there, f"{fault.rstrip('.')}. {allowed}".rstrip() if allowed else fault
    return place, fault


def _deepest(schema: Schema, fault: str, compile_: Compile) -> tuple[str, Any]:
    """The innermost subschema that has the fault also when it stands alone; found by halves among its siblings."""
    whole, options = rebased_schema(schema, WHOLE), schema.get("x-guidance", {})

    def is_faulty(pointers: Sequence[str]) -> bool:
        parts = [{"$ref": f"#{WHOLE}{pointer}"} for pointer in pointers]
        return _fault_of({"anyOf": parts, "$defs": {"whole": whole}, "x-guidance": options}, compile_) == fault

    place, pointer, node = "", "", schema
    while isinstance(node, dict):
        defined_first = sorted(children(node), key=lambda child: child.keyword not in DEFINITIONS)
        if (child := _faulty(defined_first, pointer, is_faulty)) is None:
            break
        place, pointer, node = place + child.place, pointer + child.pointer, child.value
    return place, node


def _faulty(among: Sequence[Subschema], pointer: str, is_faulty: Callable[[Sequence[str]], bool]) -> Subschema | None:
    while among and is_faulty([pointer + child.pointer for child in among]):
        if len(among) == 1:
            return among[0]
        half = among[: len(among) // 2]
        among = half if is_faulty([pointer + child.pointer for child in half]) else among[len(half) :]
    return None


def _fault_of(schema: Mapping[str, Any], compile_: Compile) -> str | None:
    fault = compile_(orjson.dumps({"grammars": [{"json_schema": schema}]}).decode())
    return fault and fault.replace(WHOLE, "")
