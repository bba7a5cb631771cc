"""DeepSeek-V3.2's conversation format; the model is published without a chat template.

    <BOS>system text, tools, response format
    <｜User｜>…<｜Assistant｜>             then <think> if the model thinks next, otherwise </think>
    reasoning</think>answer, calls<EOS>    reasoning only after the last user message; earlier turns omit it
    results of calls                       then <think> or </think> again, and the turn continues

The marks are those of the published format; the sentences that explain tools and response format are our own.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from api.reading.dialects.tags.deepseek_v32 import DSML
from common.errors import InvalidRequest
from common.grammar.thinking import THINK, THINK_END

Message = Mapping[str, Any]  # as OpenAI's: role, content (text), tool_calls, tool_call_id, reasoning_content

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
SYSTEM_ROLES = ("system", "developer")  # the format's own `developer` is a user's message, not what OpenAI means by it

TOOLS_TEXT = """## Tools

These tools can help you to answer. To call some, end your reply with a "<{dsml}function_calls>" block of this form:

<{dsml}function_calls>
<{dsml}invoke name="$FUNCTION_NAME">
<{dsml}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{dsml}parameter>
...
</{dsml}invoke>
<{dsml}invoke name="$FUNCTION_NAME2">
...
</{dsml}invoke>
</{dsml}function_calls>

A parameter that is a string has string="true" and is written plainly, with no quotes or escapes. Every other one
(number, boolean, list, object) has string="false" and is written as JSON.

What the calls return follows in a <function_results> block. When you are thinking, think about it before you go on:

<function_results>
...
</function_results>

{think}...your thoughts about the results{end_think}

The functions, each with the JSON Schema of its parameters:

<functions>
{functions}
</functions>
"""

RESPONSE_FORMAT_TEXT = "## Response Format:\n\nYour reply MUST strictly adhere to the following schema:\n{schema}"


def encode_chat(
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    thinking: bool = False,
    response_format: Mapping[str, Any] | None = None,
    continue_final: bool = False,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt's text with its special tokens. Raises InvalidRequest for messages that the format cannot express."""
    num_leading = next((at for at, one in enumerate(messages) if one["role"] not in SYSTEM_ROLES), len(messages))
    turns = _with_late_systems(list(enumerate(messages))[num_leading:])
    last_user = max((index for index, message in turns if message["role"] == "user"), default=-1)
    _check_end(turns, continue_final)
    parts = [BOS, _system_text(messages[:num_leading], tools, response_format)]
    calls: list[Mapping[str, Any]] = []  # still without results
    results: list[tuple[int, Message]] = []
    for index, message in turns:
        if message["role"] == "tool":
            results.append((index, message))
            if len(results) == len(calls):
                parts.append(_results_text(calls, results) + _think_mark(thinking and index > last_user))
                calls, results = [], []
            elif not calls:
                raise _invalid(index, "a tool message must follow an assistant message whose tool_calls it answers")
            continue
        if calls:
            raise _invalid(index, f"{len(calls)} tool calls came before, but {len(results)} results")
        if message["role"] == "user":
            parts.append(USER + _text(message) + ASSISTANT + _think_mark(thinking and index == last_user))
        elif message["role"] == "assistant":
            parts.append(_assistant_text(index, message, thinks=thinking and index > last_user))
            calls = list(message.get("tool_calls") or ())
        else:
            raise _invalid(index, f"this model knows no role {message['role']!r}")
    if calls:
        raise _invalid(len(messages) - 1, f"{len(calls)} tool calls came before, but {len(results)} results")
    text = "".join(parts)
    if continue_final:
        text = text.removesuffix(EOS)
        return text if messages[-1].get("content") else text.removesuffix(THINK_END)  # reasoning goes on within itself
    return text if add_generation_prompt else text.removesuffix(_think_mark(thinking)).removesuffix(ASSISTANT)


def thinking_wanted(template_kwargs: Mapping[str, Any]) -> bool:
    """The three variables that clients set, the most explicit first; off by default."""
    for name in ("thinking", "enable_thinking"):
        if name in template_kwargs:
            return bool(template_kwargs[name])
    return template_kwargs.get("reasoning_effort") not in (None, "none")


def _with_late_systems(turns: Sequence[tuple[int, Message]]) -> list[tuple[int, Message]]:
    """System and developer messages as the user's, in their place: part of a user's turn beside it, else a turn.

    One between calls and their results comes after the results.
    """
    result: list[tuple[int, Message]] = []
    late: list[str] = []
    for at, (index, message) in enumerate(turns):
        following = turns[at + 1][1]["role"] if at + 1 < len(turns) else None
        if message["role"] in SYSTEM_ROLES:
            late.append(_text(message))
            if following in ("user", "tool", *SYSTEM_ROLES):
                continue
            if result and result[-1][1]["role"] == "user":
                index, before = result.pop()
                late.insert(0, _text(before))
            message = {"role": "user", "content": ""}
        if message["role"] == "user" and late:
            message = {**message, "content": "\n\n".join(filter(None, (*late, _text(message))))}
            late = []
        result.append((index, message))
        if late and message["role"] == "tool" and following not in ("tool", "user", *SYSTEM_ROLES):
            result.append((index, {"role": "user", "content": "\n\n".join(late)}))
            late = []
    return result


def _check_end(turns: Sequence[tuple[int, Message]], continue_final: bool) -> None:
    if not turns:
        raise InvalidRequest("'messages' must have a user message.", param="messages")
    index, last = turns[-1]
    if continue_final and (last["role"] != "assistant" or last.get("tool_calls")):
        raise _invalid(index, "only an assistant's text can be continued")
    if not continue_final and last["role"] == "assistant":
        raise _invalid(index, "the last message must be a user's or a tool's, unless continue_final_message is set")


def _system_text(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], response_format: Mapping[str, Any] | None
) -> str:
    """The first system and developer messages, joined: the format has one place for them."""
    text = "\n\n".join(map(_text, messages))
    if tools:
        functions = "\n".join(_json(tool["function"]) for tool in tools)
        text += "\n\n" + TOOLS_TEXT.format(dsml=DSML, think=THINK, end_think=THINK_END, functions=functions)
    schema = _response_schema(response_format)
    if schema is not None:
        text += "\n\n" + RESPONSE_FORMAT_TEXT.format(schema=_json(schema))
    return text


def _response_schema(response_format: Mapping[str, Any] | None) -> Any:
    if response_format is None or response_format.get("type") == "text":
        return None
    described = response_format.get("json_schema") or {}
    return described.get("schema") or {"type": "object"}


def _assistant_text(index: int, message: Message, *, thinks: bool) -> str:
    """`thinks`: this turn continues in thinking mode, so it needs reasoning or tool calls."""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    calls = message.get("tool_calls") or ()
    if thinks and not (reasoning or calls):
        raise _invalid(index, "in thinking mode it needs reasoning_content or tool_calls, as no user message follows")
    thought = f"{reasoning}{THINK_END}" if thinks else ""
    return thought + _text(message) + (_calls_text(index, calls) if calls else "") + EOS


def _calls_text(index: int, calls: Sequence[Mapping[str, Any]]) -> str:
    invokes = "\n".join(_invoke_text(index, call["function"]) for call in calls)
    return f"\n\n<{DSML}function_calls>\n{invokes}\n</{DSML}function_calls>"


def _invoke_text(index: int, function: Mapping[str, Any]) -> str:
    text = function.get("arguments") or "{}"
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(index, f"the arguments of {function['name']!r} are not JSON") from error
    if not isinstance(arguments, dict):
        raise _invalid(index, f"the arguments of {function['name']!r} are not a JSON object")
    parameters = "\n".join(_parameter_text(name, value) for name, value in arguments.items())
    return f'<{DSML}invoke name="{function["name"]}">\n{parameters}\n</{DSML}invoke>'


def _parameter_text(name: str, value: Any) -> str:
    is_string = isinstance(value, str)
    written = value if is_string else _json(value)
    return f'<{DSML}parameter name="{name}" string="{_json(is_string)}">{written}</{DSML}parameter>'


def _results_text(calls: Sequence[Mapping[str, Any]], results: Sequence[tuple[int, Message]]) -> str:
    """The results in the order of their calls, because the format has no call ids."""
    order = {call.get("id"): place for place, call in enumerate(calls)}
    places = [order.get(message.get("tool_call_id")) for _, message in results]
    if any(message.get("tool_call_id") for _, message in results):
        for (index, message), place in zip(results, places, strict=True):
            if place is None or places.count(place) > 1:
                raise _invalid(index, f"tool_call_id {message.get('tool_call_id')!r} is not that of one call before it")
        results = sorted(results, key=lambda result: order[result[1].get("tool_call_id")])
    listed = "".join(f"\n<result>{_text(message)}</result>" for _, message in results)
    return f"\n\n<function_results>{listed}\n</function_results>\n\n"


def _think_mark(thinks: bool) -> str:
    return THINK if thinks else THINK_END


def _text(message: Message) -> str:
    """The content, already flattened to text."""
    return message.get("content") or ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _invalid(index: int, reason: str) -> InvalidRequest:
    return InvalidRequest(f"messages[{index}]: {reason}.", param="messages")
