"""Typed messages -> the template's view of them -> the rendered prompt."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from api.prompt import deepseek_v32, harmony
from api.prompt.bounds import TooSlow, bounded
from api.prompt.images import is_image
from api.prompt.special_tokens import HIDDEN, OPEN, Guard
from api.prompt.template_traits import (
    REFUSALS,
    STRICTEST,
    TEMPLATE_BYTES,
    TEMPLATE_TIME_S,
    ChatTemplate,
    chat_template_of,
    placed,
    with_taken_effort,
)
from api.prompt.templates import checked_kwargs, render_template
from api.prompt.turns import described, fitted, written_out
from api.reading.harmony.calls import HARMONY
from api.reading.json_text import object_in
from api.reading.thinking.form import ReasoningForm
from api.schema.chat import Message, Part, Tool
from common.errors import InvalidRequest
from common.grammar.thinking import THINK, Thinking
from common.json_bounds import bounded_marks
from common.wire import ModelCard


@dataclass(frozen=True, slots=True)
class Conversation:
    """Everything a prompt is rendered from."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    response_format: Mapping[str, Any] | None = None  # for models whose format describes it in the prompt
    continue_final: bool = False  # the last message is the start of the answer
    add_generation_prompt: bool = True


def render(conversation: Conversation, card: ModelCard, guard: Guard) -> str:
    """The prompt's text, in which `guard` hides special tokens that the caller wrote. Raises InvalidRequest."""
    refuse_large_arguments(conversation.messages)
    template = chat_template_of(card, has_tools=bool(conversation.tools))
    takes_broken = template is not None and template.traits.takes_broken_arguments
    read = parsed_object if takes_broken else whole_object
    messages = [
        guard.message(_with_read_arguments(as_dict(message, number, accepts_images=card.accepts_images), read))
        for number, message in enumerate(conversation.messages)
    ]
    tools = [guard.value(tool.model_dump(exclude_none=True)) for tool in conversation.tools]
    kwargs = {
        name: guard.value(value)
        for name, value in checked_kwargs(conversation.template_kwargs, card.special_tokens).items()
    }
    if card.has_own_encoder:
        return _render_deepseek_v32(conversation, messages, tools, kwargs, guard)
    if template is None:
        raise InvalidRequest("This model has no chat template; use /v1/completions.", param="messages")
    if template.traits.wants_text_arguments:
        messages = [_with_written_arguments(message) for message in messages]
    if template.dialect.name == HARMONY.name:
        messages, kwargs = harmony.with_one_text(messages), harmony.with_known_effort(kwargs)
    messages = written_out(messages, tools, template)
    kwargs = with_taken_effort(kwargs, template.traits)
    try:
        with bounded(TEMPLATE_TIME_S, TEMPLATE_BYTES):
            return _render_fitted(template, conversation, messages, tools, card.special_tokens | kwargs)
    except (TooSlow, MemoryError):
        raise InvalidRequest("The model's chat template needs too long for these messages.", param="messages") from None
    except REFUSALS as error:
        raise InvalidRequest(f"The model's chat template refuses these messages: {error}", param="messages") from None


def _render_fitted(
    template: ChatTemplate,
    conversation: Conversation,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    variables: Mapping[str, Any],
) -> str:
    """Raises the first refusal, when the template refuses the messages also after what usually helps."""

    def rendered(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> str:
        placed_messages, placed_tools, more = placed(template.traits.tools_place, messages, tools)
        return render_template(
            template.source,
            placed_messages,
            placed_tools,
            add_generation_prompt=conversation.add_generation_prompt,
            continue_final=conversation.continue_final,
            variables={**variables, **more},
        )

    messages = fitted(messages, template.traits)
    try:
        return rendered(messages, tools)
    except REFUSALS as first:
        try:
            stricter = fitted(messages, STRICTEST), described(tools)
            if stricter == (messages, tools):
                raise first
            return rendered(*stricter)
        except REFUSALS:
            raise first from None


def final_text(conversation: Conversation, guard: Guard) -> str | None:
    """The text that the answer continues, with special tokens hidden; None if the answer begins anew."""
    if not conversation.continue_final:
        return None
    last = conversation.messages[-1]
    content = last.content or last.reasoning_content or last.reasoning
    texts = [part.text or "" for part in content] if isinstance(content, list) else [content or ""]
    return guard.text("".join(texts), is_own=True)


def thinking_of(rendered: str, continued: str | None, card: ModelCard, form: ReasoningForm) -> Thinking:
    """Where the answer begins, by the end of the prompt: see Thinking. `continued`: what final_text() says."""
    if continued is not None:
        return "opened" if _is_inside_thinking(rendered, continued, form) else "answering"
    end = rendered.rstrip()
    if end.endswith(form.openings):
        return "opened"
    if end.endswith(form.closings) and (not form.shares_closing or _is_empty_block(end, form)):
        return "none"
    if form.answer_openings and end.endswith(form.answer_openings):
        return "answering"
    if form.is_implied:
        return "opened"
    return "optional" if knows_thinking(card, form) else "none"


def knows_thinking(card: ModelCard, form: ReasoningForm) -> bool:
    """The model may reason before it answers, by its template."""
    is_known = card.architecture == "deepseek_v32" or form.marks.opening in (card.chat_template or "")
    return is_known or form.marks.opening != THINK


def _is_inside_thinking(rendered: str, continued: str, form: ReasoningForm) -> bool:
    """Reasoning is open at the end of the final message. No other message counts: a user may write a mark too."""
    prompt, own = HIDDEN.sub(OPEN, rendered).rstrip(), HIDDEN.sub(OPEN, continued).strip()
    if not prompt.endswith(own):
        return False  # the template has closed the reasoning
    before = prompt[: prompt.rfind(own)].rstrip() if own in prompt else ""
    opened_at = max(own.rfind(mark) for mark in form.openings)
    is_opened = opened_at >= 0 or before.endswith(form.openings)
    return is_opened and not any(mark in own[max(opened_at, 0) :] for mark in form.closings)


def _is_empty_block(end: str, form: ReasoningForm) -> bool:
    return end.removesuffix(form.marks.closing).rstrip().endswith(form.openings)


def as_dict(message: Message, number: int, *, accepts_images: bool) -> dict[str, Any]:
    """A message in the template's form: its content is text, and the role `developer` is `system`.

    Templates of vision models iterate over a list of parts, in which images are placeholders.
    """
    fields = message.model_dump(exclude_none=True)
    fields["role"] = "system" if message.role == "developer" else message.role
    fields["content"] = parts_of(message, number) if accepts_images else text_of(message, number)
    if message.reasoning is not None:
        fields.setdefault("reasoning_content", message.reasoning)
    if not message.tool_calls:
        fields.pop("tool_calls", None)
    return fields


def parts_of(message: Message, number: int) -> list[dict[str, str]]:
    """Parts for a vision model's template. Raises InvalidRequest for a part that is neither text nor image.

    Neighbouring texts are one part: some templates read the first part only, and a control token cut into two would
    be whole again in the prompt.
    """
    if message.content is None or isinstance(message.content, str):
        return [{"type": "text", "text": message.content or ""}]
    parts: list[dict[str, str]] = []
    texts: list[str] = []

    def end_text() -> None:
        if texts:
            parts.append({"type": "text", "text": _gap_of(message).join(texts)})
            texts.clear()

    for index, part in enumerate(message.content):
        if is_image(part):
            end_text()
            parts.append({"type": "image"})
        else:
            texts.append(_part_text(part, f"messages[{number}].content[{index}]", "text and images"))
    end_text()
    return parts


def text_of(message: Message, number: int) -> str:
    """The content as one text. Raises InvalidRequest for a part that is not text."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return _gap_of(message).join(
        _part_text(part, f"messages[{number}].content[{index}]", "text") for index, part in enumerate(message.content)
    )


def _gap_of(message: Message) -> str:
    """What stands between texts. Those of a tool are separate results: MCP's tools send lists so."""
    return "\n" if message.role == "tool" else ""


def _part_text(part: Part, param: str, taken: str) -> str:
    if part.type in ("text", "input_text", "output_text") and part.text is not None:
        return part.text
    if part.type == "refusal":
        return part.refusal or ""
    raise InvalidRequest(f"'{param}': this model takes {taken} only, not parts of type {part.type!r}.", param=param)


def _render_deepseek_v32(
    conversation: Conversation,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    kwargs: Mapping[str, Any],
    guard: Guard,
) -> str:
    return deepseek_v32.encode_chat(
        [_with_written_arguments(message) for message in messages],
        tools=tools,
        thinking=deepseek_v32.thinking_wanted(kwargs),
        response_format=guard.value(conversation.response_format),
        continue_final=conversation.continue_final,
        add_generation_prompt=conversation.add_generation_prompt,
    )


def _with_read_arguments(message: dict[str, Any], read: Callable[[str], Any]) -> dict[str, Any]:
    """Templates serialize arguments themselves.

    Parse before special tokens are hidden, or an escape (`\\u003c`) could smuggle one past the guard.
    """
    calls = [_with_arguments(call, read) for call in message.get("tool_calls", ())]
    return message | {"tool_calls": calls} if calls else message


def _with_written_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = [_with_arguments(call, written_object) for call in message.get("tool_calls", ())]
    return message | {"tool_calls": calls} if calls else message


def _with_arguments(call: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    function = call["function"]
    return call | {"function": function | {"arguments": change(function["arguments"])}}


def refuse_large_arguments(messages: Sequence[Message]) -> None:
    """Raises InvalidRequest when all arguments together exceed the limits of a request's own JSON."""
    texts = [call.function.arguments for message in messages for call in message.tool_calls or ()]
    bounded_marks(b",".join(bounded_marks(text.encode()) for text in texts))


def parsed_object(text: str) -> Any:
    """The JSON object in a text; the text itself if it holds none."""
    value = object_in(text or "{}")
    return text if value is None else value


def whole_object(text: str) -> dict[str, Any]:
    """The JSON object in a text, completed if it was cut off; the text itself as a field of one if it holds none."""
    value = parsed_object(text)
    if isinstance(value, dict):
        return value
    try:
        value = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return {"arguments": text}
    return value if isinstance(value, dict) else {"arguments": text}


def written_object(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
