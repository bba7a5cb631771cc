"""Custom tools, whose input is one text: the function of one string that the model is shown for each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from api.reading.dialects.call_grammar import OfferedFunction
from api.schema.chat import CUSTOM_INPUT, CustomGrammar, CustomTool, FunctionDefinition, Tool
from common.grammar.answer import ebnf_grammar
from common.grammar.check import GrammarCheck
from common.grammar.lark_pattern import lark_pattern

NOTATIONS: Mapping[str, str] = MappingProxyType({"lark": "Lark grammar", "regex": "regular expression"})


def as_function(tool: Tool | CustomTool) -> Tool:
    """The function for a custom tool. A grammar is described, and enforced if it can be written as one regex."""
    if isinstance(tool, Tool):
        return tool
    rules = tool.custom.format.grammar if tool.custom.format else None
    text: dict[str, Any] = {"type": "string"}
    if rules is not None:
        text["description"] = f"Text of this {NOTATIONS[rules.syntax]}:\n{rules.definition}"
        if (pattern := _pattern(rules)) is not None:
            text["pattern"] = f"^(?:{pattern})$"
    definition = FunctionDefinition.model_construct(
        name=tool.custom.name,
        description=tool.custom.description,
        parameters=_parameters(text),
        strict=True,
    )
    return Tool.model_construct(type="function", function=definition)


def check_rules(tools: Sequence[Tool | CustomTool], grammars: GrammarCheck) -> None:
    """Raises InvalidRequest for a Lark grammar that is none. One that is not regular is only shown to the model."""
    for number, tool in enumerate(tools):
        rules = tool.custom.format.grammar if isinstance(tool, CustomTool) and tool.custom.format else None
        if rules is not None and rules.syntax == "lark" and _pattern(rules) is None:
            grammars.compiled(ebnf_grammar(rules.definition, f"tools[{number}].custom.format.grammar.definition"))


def names_of_custom_tools(tools: Iterable[Tool | CustomTool]) -> tuple[str, ...]:
    return tuple(tool.custom.name for tool in tools if isinstance(tool, CustomTool))


def without_rules(function: OfferedFunction) -> OfferedFunction:
    """A custom tool's function, with any text as its input."""
    return replace(function, parameters=_parameters({"type": "string"}))


def _parameters(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {CUSTOM_INPUT: text},
        "required": [CUSTOM_INPUT],
        "additionalProperties": False,
    }


def _pattern(rules: CustomGrammar) -> str | None:
    return rules.definition if rules.syntax == "regex" else lark_pattern(rules.definition)
