"""xLAM: an answer that is a JSON list of calls, without any marker."""

from api.reading.dialects.call_grammar import PARAM, CallRules, call_schema, templated
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.objects.call_object import CallObject
from api.reading.dialects.objects.marked_lists import MarkedList
from api.reading.pieces import CallPieces
from common.grammar.answer import Grammar, assemble


def new_call(calls: CallPieces, before: str) -> CallObject:
    """Other lists of objects have names too."""
    return CallObject(calls, before, needs_arguments=True)


def new_block(calls: CallPieces, before: str) -> MarkedList:
    return MarkedList(calls, before, "", new_call)


def grammar(rules: CallRules) -> Grammar:
    """An answer that begins with a bracket is calls."""
    calls = call_schema(rules.schemas, "arguments", prefix="/items")
    array = {"type": "array", "items": calls, "minItems": 1, "maxItems": rules.most_calls}
    free = "" if rules.must_call else "TEXT? | "
    lines = [f"start: {free}@calls", "TEXT: /\\s*[^\\s{\\[](.|\\n)*/"]
    return assemble(lines, {"calls": templated(array)}, PARAM)


def detect(template: str, _: str) -> bool:
    return "make calls in a single JSON array" in template


XLAM = ToolDialect("xlam", (), detect, new_block, grammar, bare="[{")
