"""Messages as a chat template takes them: what it would leave out is written as text, what it refuses is rearranged."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from api.prompt.template_traits import ChatTemplate, TemplateTraits
from api.reading.dialects.dialect import CallWriter, HistoryId
from api.reading.dialects.objects import hermes

Message = dict[str, Any]
Content = str | list[Any]  # a vision model's template takes a list of parts
PARAGRAPH = "\n\n"

TOOLS_TEXT = """# Tools

You can call functions. Each of them is described here as JSON, with the JSON Schema of its arguments:
<tools>
{tools}
</tools>

To call a function, end your answer with a call of this form, with its name and its arguments. Several calls may follow
one another:
{example}

The results then come back{place}. Call a function only where one helps."""
RESULTS_PLACE = " in <tool_response></tool_response>"  # where the template has no form of its own


def written_out(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], template: ChatTemplate
) -> list[Message]:
    """The conversation with tools, calls and results as text, each only where the template leaves it out."""
    traits, write = template.traits, template.dialect.write_calls or hermes.write_calls
    history_id = template.dialect.history_id
    result = with_results_in_order(messages)
    if history_id is not None:
        result = with_history_ids(result, history_id)
    if not traits.writes_calls:
        result = [_with_calls_as_text(message, write) for message in result]
    if not traits.writes_results:
        result = _with_results_as_turns(result)
    if traits.tools_place is None and tools:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        example = write([("function-name", {"argument-name": "value"})])
        place = "" if traits.writes_results else RESULTS_PLACE
        result = _with_system_text(result, TOOLS_TEXT.format(tools=listed, example=example, place=place))
    return result


def with_results_in_order(messages: Sequence[Message]) -> list[Message]:
    """Results in the order of the calls before them: many templates write no ids. Those of no such call come last."""
    result: list[Message] = []
    places: dict[str, int] = {}
    for is_of_tools, turns in groupby(messages, lambda message: message["role"] == "tool"):
        run = list(turns)
        if is_of_tools:
            run.sort(key=lambda message: places.get(message.get("tool_call_id", ""), len(places)))
        else:
            ids = [call["id"] for message in run for call in message.get("tool_calls", ())]
            places = {call_id: place for place, call_id in enumerate(ids)}
        result += run
    return result


def with_history_ids(messages: Sequence[Message], history_id: HistoryId) -> list[Message]:
    """The ids of calls and of their results as the model's form has them. A result belongs to the newest such call."""
    ids: dict[str, str] = {}
    result, num_calls = [], 0
    for message in messages:
        calls = []
        for call in message.get("tool_calls", ()):
            ids[call["id"]] = history_id(call["id"], call["function"]["name"], num_calls)
            calls.append(call | {"id": ids[call["id"]]})
            num_calls += 1
        own = message.get("tool_call_id")
        fields = ({"tool_calls": calls} if calls else {}) | ({"tool_call_id": ids[own]} if own in ids else {})
        result.append(message | fields)
    return result


def fitted(messages: Sequence[Message], traits: TemplateTraits) -> list[Message]:
    """The conversation without what the template refuses or drops: system messages, several calls, repeated turns."""
    result = [_with_thinking_part(message) for message in messages] if traits.thinks_in_parts else list(messages)
    if not traits.takes_several_calls:
        result = _one_call_each(result)
    if not traits.writes_calls_beside_text:
        result = [turn for message in result for turn in _with_calls_alone(message)]
    result = _with_fewer_systems(result, traits)
    if traits.alternates:
        result = _alternating(result)
    return result if traits.takes_empty_answers else [_with_some_text(message) for message in result]


def _with_thinking_part(message: Message) -> Message:
    reasoning = message.get("reasoning_content")
    if not reasoning or message["role"] != "assistant":
        return message
    rest = {name: value for name, value in message.items() if name not in ("reasoning_content", "reasoning")}
    return rest | {"content": [{"type": "thinking", "thinking": reasoning}, *_parts(message["content"])]}


def described(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools with the fields that a caller may leave out and some templates read."""
    return [{**tool, "function": _described(tool["function"])} for tool in tools]


def _described(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {}} | (function.get("parameters") or {})
    if isinstance(properties := parameters["properties"], dict):
        parameters["properties"] = {
            name: _described_property(schema) if isinstance(schema, dict) else schema
            for name, schema in properties.items()
        }
    return {"description": "", **function, "parameters": parameters}


def _described_property(schema: Mapping[str, Any]) -> dict[str, Any]:
    kind = _one_type(schema)
    rest = {"additionalProperties": True} if kind == "object" else {}
    return {"description": "", **rest, **schema, "type": kind}


def _one_type(schema: Mapping[str, Any]) -> str:
    """The first JSON type that a schema names beside null: some templates read nothing else."""
    ways = [schema, *(way for name in ("anyOf", "oneOf", "allOf") for way in schema.get(name) or ())]
    named = [way.get("type") for way in ways if isinstance(way, dict)]
    types = [one for name in named for one in (name if isinstance(name, list) else [name]) if one not in (None, "null")]
    return next((one for one in types if isinstance(one, str)), "string")


def joined(first: Content, second: Content, between: str = PARAGRAPH) -> Content:
    """Two contents as one."""
    return all_joined([first, second], between)


def all_joined(contents: Sequence[Content], between: str) -> Content:
    """Contents as one, in linear time. Texts that meet become one part: some templates read only the first."""
    shown = [content for content in contents if not _is_empty(content)]
    texts = [content for content in shown if isinstance(content, str)]
    if len(texts) == len(shown) and not any(isinstance(content, list) for content in contents):
        return between.join(texts)
    if not shown:
        return _parts(contents[-1])
    gap = _parts(between) if between else []
    parts = _parts(shown[0]) + [part for content in shown[1:] for part in (*gap, *_parts(content))]
    result: list[Any] = []
    for is_text, group in groupby(parts, key=lambda part: part["type"] == "text"):
        same = list(group)
        result += _parts("".join(part["text"] for part in same)) if is_text else same
    return result


def _parts(content: Content) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _is_empty(content: Content) -> bool:
    return not any(part.get("text", part["type"] != "text") for part in _parts(content))


def _only(text: str, like: Content) -> Content:
    """A text as the content of a message, in the form of another message's content."""
    return [{"type": "text", "text": text}] if isinstance(like, list) else text


def _with_calls_as_text(message: Message, write: CallWriter) -> Message:
    if not message.get("tool_calls"):
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    text = write([(function["name"], function["arguments"]) for function in functions])
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return rest | {"content": joined(message["content"], text, "\n")}


def _with_results_as_turns(messages: Sequence[Message]) -> list[Message]:
    """Results that follow one another become one turn of the user's."""
    result: list[Message] = []
    for is_result, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        if not is_result:
            result += group
            continue
        texts = [all_joined(["<tool_response>\n", one["content"], "\n</tool_response>"], "") for one in group]
        result.append({"role": "user", "content": all_joined(texts, "\n")})
    return result


def _with_system_text(messages: Sequence[Message], text: str) -> list[Message]:
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": _only(text, first["content"])}, *messages]
    return [first | {"content": joined(first["content"], text)}, *messages[1:]]


def _with_fewer_systems(messages: Sequence[Message], traits: TemplateTraits) -> list[Message]:
    """Those at the beginning as one, or as the user's; a later one as the user's, in its place."""
    num_leading = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
    leading, rest = list(messages[:num_leading]), messages[num_leading:]
    if not traits.takes_systems:
        leading = _merged(leading)
    if leading and not rest and not traits.takes_system_alone:
        leading = [*leading[:-1], leading[-1] | {"role": "user"}]
    if not traits.takes_system:
        leading = [message | {"role": "user"} for message in leading]
    if not traits.takes_late_system:
        rest = [message | {"role": "user"} if message["role"] == "system" else message for message in rest]
    return [*leading, *rest]


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Messages of one role as one message, or none."""
    if not messages:
        return []
    thoughts = [one["reasoning_content"] for one in messages if one.get("reasoning_content")]
    fields = {"reasoning_content": PARAGRAPH.join(thoughts)} if thoughts else {}
    return [messages[0] | fields | {"content": all_joined([one["content"] for one in messages], PARAGRAPH)}]


def _with_calls_alone(message: Message) -> list[Message]:
    """The text of a turn with calls in a turn of its own before them."""
    if not message.get("tool_calls") or _is_empty(message["content"]):
        return [message]
    text = {name: value for name, value in message.items() if name != "tool_calls"}
    return [text, {"role": "assistant", "content": _only("", message["content"]), "tool_calls": message["tool_calls"]}]


def _with_some_text(message: Message) -> Message:
    if _turn_of(message) != "assistant" or not _is_empty(message["content"]):
        return message
    return message | {"content": _only(" ", message["content"])}


def _one_call_each(messages: Sequence[Message]) -> list[Message]:
    """Each call in a turn of its own, before its result."""
    result: list[Message] = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            result.append(message)
            continue
        num_results = next((at for at, later in enumerate(rest) if later["role"] != "tool"), len(rest))
        results, rest = rest[:num_results], rest[num_results:]
        for number, call in enumerate(calls):
            turn = message if number == 0 else {"role": "assistant", "content": _only("", message["content"])}
            if call["id"]:
                mine = [one for one in results if one.get("tool_call_id") == call["id"]]
                results = [one for one in results if one not in mine]
            else:
                mine, results = results[:1], results[1:]
            result += [turn | {"tool_calls": [call]}, *mine]
        result += results
    return result


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """The user and the assistant in turn. Calls and results are not counted: templates allow them between."""
    turns: list[Message] = []
    for turn, group in groupby(messages, key=_turn_of):
        same = list(group)
        turns += _merged(same) if turn else same
    result: list[Message] = []
    said = "assistant"
    for message in turns:
        turn = _turn_of(message)
        if turn and turn == said:
            result.append({"role": "assistant" if turn == "user" else "user", "content": _only("", message["content"])})
        result.append(message)
        said = turn or said
    return result


def _turn_of(message: Message) -> str:
    """user or assistant; '' for a message that is not counted."""
    return message["role"] if message["role"] in ("user", "assistant") and not message.get("tool_calls") else ""
