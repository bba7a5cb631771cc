"""A request's tools and response format -> the grammar that constrains its answer, or None."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from api.prompt.encoder import PromptEncoder
from api.reading.dialects.call_grammar import OfferedFunction
from api.request.custom_tools import as_function, names_of_custom_tools, without_rules
from api.schema.base import Structured
from api.schema.chat import AllowedToolsChoice, ChatRequest, CustomTool, FunctionDefinition, NamedTool, Tool
from common.errors import InvalidRequest
from common.grammar.answer import (
    Grammar,
    choice_grammar,
    ebnf_grammar,
    either,
    json_object_grammar,
    json_schema_grammar,
    json_value,
    regex_grammar,
    structured_grammar,
)
from common.grammar.check import GrammarCheck
from common.grammar.json_schema import checked_schema
from common.grammar.thinking import Thinking, after_empty_marks, after_marked_text, after_thinking, between_marks


def offered_tools(body: ChatRequest) -> list[Tool]:
    """The tools for the prompt, all as functions. Raises InvalidRequest when `tool_choice` contradicts `tools`."""
    tools = [as_function(tool) for tool in body.tools or ()]
    names = [tool.function.name for tool in tools]
    if repeated := next((name for name, times in Counter(names).items() if times > 1), None):
        raise InvalidRequest(f"'tools' has two functions named {repeated!r}.", param="tools")
    choice = body.tool_choice
    if choice == "none":
        return []
    if not tools:
        if choice not in (None, "auto"):
            raise InvalidRequest("'tool_choice' needs 'tools'.", param="tool_choice")
        return []
    wanted = _wanted_names(choice)
    known = set(names)
    if unknown := next((name for name in wanted if name not in known), None):
        raise InvalidRequest(f"'tool_choice' names {unknown!r}, which is not among the tools.", param="tool_choice")
    if isinstance(choice, AllowedToolsChoice):
        allowed = set(wanted)
        return [tool for tool in tools if tool.function.name in allowed]
    return tools


def grammar_of(body: ChatRequest, tools: Sequence[Tool], encoder: PromptEncoder, thinking: Thinking) -> Grammar | None:
    """Raises InvalidRequest for a schema or grammar that cannot be enforced."""
    marks = (thinking, encoder.marked, encoder.reasoning_form.marks)
    answer = answer_grammar(body)
    calls = _calls(body, tools, encoder, is_shaped=answer is not None) if tools else None
    is_free = answer is None and not must_call(body)
    if calls is not None:
        calls = _placed(calls, thinking, encoder, is_free=is_free)
    if answer is not None:
        answer = between_marks(answer, *marks)
    if calls is not None and answer is not None and not must_call(body):
        grammar: Grammar | None = either(calls, answer)
    else:
        grammar = calls or answer
    return None if grammar is None else after_thinking(grammar, *marks)


def compiled(grammar: Grammar, body: ChatRequest, grammars: GrammarCheck) -> str:
    """Raises InvalidRequest, which names the strict function whose schema is at fault."""
    try:
        return grammars.compiled(grammar)
    except InvalidRequest:
        for function, param in _strict_functions(body.tools or ()):
            with about(function):
                grammars.compiled(json_schema_grammar(function.parameters, param))
        raise


def _placed(calls: Grammar, thinking: Thinking, encoder: PromptEncoder, *, is_free: bool) -> Grammar | None:
    """The calls with what stands before them in the model's form. `is_free`: that may be text."""
    form, marks = encoder.reasoning_form, (thinking, encoder.marked, encoder.reasoning_form.marks)
    if not is_free:
        return after_empty_marks(calls, *marks) if form.answers_always else calls
    if not form.has_channels:
        return after_marked_text(calls, *marks)
    return None if thinking == "answering" else calls  # no call can follow inside a message of text


def answer_grammar(body: Structured) -> Grammar | None:
    """From `response_format`, or from the equivalent field of another server."""
    builders: dict[str, Callable[[Any, str], Grammar]] = {
        "structured_outputs": structured_grammar,
        "guided_json": _schema_grammar,
        "guided_regex": regex_grammar,
        "guided_choice": choice_grammar,
        "guided_grammar": ebnf_grammar,
        "regex": regex_grammar,
        "ebnf": ebnf_grammar,
        "grammar": ebnf_grammar,
        "json_schema": _schema_grammar,
    }
    given = {name: value for name in builders if (value := getattr(body, name)) is not None}
    grammars = [builders[name](value, name) for name, value in given.items()]
    if (format_grammar := response_format_grammar(body)) is not None:
        grammars.append(format_grammar)
    if len(grammars) > 1:
        names = " and ".join(f"'{grammar.param}'" for grammar in grammars[:2])
        raise InvalidRequest(f"{names} exclude each other.", param=grammars[0].param)
    return grammars[0] if grammars else None


def response_format_grammar(body: Structured) -> Grammar | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        param = "response_format.schema"
        return json_schema_grammar(wanted.schema_, param) if wanted.schema_ else json_object_grammar()
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise InvalidRequest(
            "'response_format.json_schema.schema' is required with type json_schema.",
            param="response_format.json_schema.schema",
        )
    return json_schema_grammar(
        wanted.json_schema.schema_, "response_format.json_schema.schema", strict=bool(wanted.json_schema.strict)
    )


def _schema_grammar(schema: Any, param: str) -> Grammar:
    return json_schema_grammar(json_value(schema, param), param)


def _calls(body: ChatRequest, tools: Sequence[Tool], encoder: PromptEncoder, *, is_shaped: bool) -> Grammar | None:
    """`is_shaped`: an answer that is not a call has a grammar of its own, so there is no free text.

    In a form that cannot hold a custom tool to its rules, the model is only shown them.
    """
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    functions = [
        OfferedFunction(tool.function.name, tool.function.parameters, strict=bool(tool.function.strict))
        for tool in tools
        if named is None or tool.function.name == named
    ]
    parallel = body.parallel_tool_calls is not False and named is None
    is_forced = must_call(body) or is_shaped
    write = partial(encoder.tool_dialect.grammar, must_call=is_forced, parallel=parallel, marked=encoder.marked)
    try:
        return write(functions)
    except InvalidRequest:
        for function, param in _strict_functions(body.tools or ()):
            with about(function):
                checked_schema(function.parameters, param)
        custom = names_of_custom_tools(body.tools or ())
        unruled = [without_rules(function) if function.name in custom else function for function in functions]
        if unruled == functions:
            raise
        return write(unruled)


def _strict_functions(tools: Sequence[Tool | CustomTool]) -> Iterator[tuple[FunctionDefinition, str]]:
    """Each strict function with a schema, and where the schema was sent."""
    for number, tool in enumerate(tools):
        if isinstance(tool, Tool) and tool.function.strict and tool.function.parameters is not None:
            yield tool.function, f"tools[{number}].function.parameters"


@contextmanager
def about(function: FunctionDefinition) -> Iterator[None]:
    """In the block, refusals name the function."""
    try:
        yield
    except InvalidRequest as refused:
        refused.message = f"The strict function {function.name!r}: {refused.message}"
        raise


def must_call(body: ChatRequest) -> bool:
    """True if the answer must consist of tool calls."""
    choice = body.tool_choice
    if isinstance(choice, AllowedToolsChoice):
        return choice.allowed_tools.mode == "required"
    return choice == "required" or isinstance(choice, NamedTool)


def _wanted_names(choice: Any) -> list[str]:
    if isinstance(choice, NamedTool):
        return [choice.function.name]
    return [tool.function.name for tool in choice.allowed_tools.tools] if isinstance(choice, AllowedToolsChoice) else []
