"""A JSON call after a marker, and no marker after it: GigaChat 3 and 3.1, and Granite's model for function calls."""

from api.reading.dialects.call_grammar import CallRules, MarkedCalls, call_schema, marked_grammar, templated
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.objects.call_object import CallObject
from api.reading.dialects.objects.marked_lists import MarkedList
from api.reading.pieces import CallPieces
from common.grammar.answer import Grammar


def marked_object(name: str, hint: str, *openings: str, space: str = "", between: str | None = None) -> ToolDialect:
    """One such dialect.

    `hint`: a text of its templates. The grammar writes the first of the openings, and `space` after it; `between` two
    calls, or None where an answer has one call at most.
    """

    def new_block(calls: CallPieces, before: str) -> MarkedList:
        return MarkedList(calls, before, "", CallObject)

    def grammar(rules: CallRules) -> Grammar:
        rest = f'rest: "{space}" @call' if space else "rest: @call"
        call = templated(call_schema(rules.schemas, "arguments"))
        also = tuple((opening, "rest") for opening in openings[1:])
        return marked_grammar(rules, MarkedCalls(openings[0], (rest,), {"call": call}, between=between, also=also))

    def detect(template: str, _: str) -> bool:
        return hint in template

    return ToolDialect(name, openings, detect, new_block, grammar)


GIGACHAT3 = marked_object(
    "gigachat3",
    "'function call'",
    "<|message_sep|>\n\nfunction call<|role_sep|>\n",
    "function call<|role_sep|>\n",
)
GIGACHAT31 = marked_object("gigachat31", "<|function_call|>", "<|function_call|>")
GRANITE_20B = marked_object("granite_20b", "<|function_call_library|>", "<function_call>", space=" ", between=" ")
MARKED_OBJECTS = (GIGACHAT31, GIGACHAT3, GRANITE_20B)
