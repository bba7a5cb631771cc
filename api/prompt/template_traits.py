"""What a model's chat template takes and what it leaves out, found once by rendering small conversations."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Literal

from jinja2 import TemplateError

from api.prompt.bounds import TooSlow, bounded
from api.prompt.templates import render_template
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.known import dialect_for
from api.reading.dialects.objects.hermes import HERMES
from common.wire import ModelCard

logger = logging.getLogger("omni.api")

TEMPLATE_TIME_S = 2.0
TEMPLATE_BYTES = 2**30
REFUSALS = (TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
TOOL_NAME = "Qqtool"  # this and the next four: texts that no template has of its own
FIRST, SECOND, THIRD, FOURTH = "Qqfirst", "Qqsecond", "Qqthird", "Qqfourth"
CALL_ID = "abcdef001"  # some templates take nine letters and digits only
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra")  # the less first
Message = Mapping[str, Any]


ToolsPlace = Literal["tools", "xml_tools", "functions", "system"]  # three variables, and a system message's field
TOOLS_PLACES: tuple[ToolsPlace, ...] = ("tools", "xml_tools", "functions", "system")


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """The defaults are those of a template that takes all."""

    tools_place: ToolsPlace | None = "tools"  # where it reads the tools that it shows; None: it shows none
    writes_calls: bool = True  # of an assistant's earlier turn
    writes_results: bool = True  # messages of the role `tool`
    wants_text_arguments: bool = False  # of calls, as JSON text
    takes_broken_arguments: bool = True  # text that is no JSON object
    thinks_in_parts: bool = False  # reads an earlier turn's reasoning as a part of its content only
    takes_several_calls: bool = True  # in one message
    writes_calls_beside_text: bool = True  # both, and the text before the result
    takes_system: bool = True
    takes_systems: bool = True  # several at the beginning
    takes_late_system: bool = True  # between turns
    takes_system_alone: bool = True
    takes_empty_answers: bool = True
    alternates: bool = False  # refuses two turns of the user's, one after the other
    efforts: tuple[str, ...] = EFFORTS


# A template that refuses a conversation may take it after these changes.
STRICTEST = TemplateTraits(
    takes_systems=False, takes_late_system=False, takes_system_alone=False, takes_empty_answers=False, alternates=True
)


def placed(
    place: ToolsPlace | None, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[Message], Sequence[Mapping[str, Any]], dict[str, Any]]:
    """Messages, tools and further variables for a template that reads the tools at this place."""
    if place == "functions":  # firefunction reads it in every chat
        return messages, (), {"functions": _json(tools), "datetime": datetime.now().strftime("%Y-%m-%d")}
    if place == "system" and tools:  # Phi-4-mini
        has_system = messages[0]["role"] == "system"
        head, rest = (messages[0], messages[1:]) if has_system else ({"role": "system", "content": ""}, messages)
        return [{**head, "tools": _json([tool["function"] for tool in tools])}, *rest], (), {}
    if place == "xml_tools" and tools:  # SmolLM3
        return messages, (), {"xml_tools": tools}
    return messages, tools if place == "tools" else (), {}


def with_taken_effort(kwargs: Mapping[str, Any], traits: TemplateTraits) -> dict[str, Any]:
    """The variables with the next higher effort that the template takes, or the highest; `none` is left out instead."""
    effort = kwargs.get("reasoning_effort")
    if effort in traits.efforts or effort not in EFFORTS:
        return dict(kwargs)
    rest = {name: value for name, value in kwargs.items() if name != "reasoning_effort"}
    taken = [one for one in traits.efforts if one != "none"]
    higher = [one for one in taken if EFFORTS.index(one) > EFFORTS.index(effort)]
    return rest if effort == "none" or not taken else rest | {"reasoning_effort": [*higher, taken[-1]][0]}


def small_tool() -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"p": {"type": "string", "description": "d"}},
        "required": ["p"],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": TOOL_NAME, "description": "d", "parameters": parameters}}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template with what is known of it."""

    source: str
    traits: TemplateTraits
    dialect: ToolDialect  # of the calls that the model is shown, and writes


def chat_template_of(card: ModelCard, *, has_tools: bool) -> ChatTemplate | None:
    """The one for a conversation with or without tools; None: the model has none."""
    source = card.tool_chat_template if has_tools and card.tool_chat_template else card.chat_template
    if source is None:
        return None
    try:
        return _known(source, card.architecture, tuple(card.special_tokens.items()), card.accepts_images)
    except (TooSlow, MemoryError):  # perhaps the machine is busy: the next request tries again
        logger.warning("The chat template of %s cannot be examined within %s s.", card.architecture, TEMPLATE_TIME_S)
        return _template(source, card.architecture, TemplateTraits())


@lru_cache(maxsize=16)
def _known(source: str, architecture: str, special_tokens: tuple[tuple[str, str], ...], in_parts: bool) -> ChatTemplate:
    with bounded(TEMPLATE_TIME_S, TEMPLATE_BYTES):
        traits = traits_of(source, special_tokens, in_parts=in_parts)
    return _template(source, architecture, traits)


def _template(source: str, architecture: str, traits: TemplateTraits) -> ChatTemplate:
    dialect = dialect_for(source, architecture)
    is_shown = dialect is not None and (traits.tools_place is not None or dialect.write_calls is not None)
    return ChatTemplate(source, traits, dialect if dialect is not None and is_shown else HERMES)


def traits_of(source: str, special_tokens: tuple[tuple[str, str], ...], *, in_parts: bool) -> TemplateTraits:
    """`in_parts`: a vision model's template, whose messages are lists of parts."""
    tools = [small_tool()]
    probe = TemplateProbe(source, dict(special_tokens), in_parts)
    user, answer = probe.message("user", FIRST), probe.message("assistant", "a")
    system, later = probe.message("system", SECOND), probe.message("system", THIRD)
    places = (place for place in TOOLS_PLACES if probe.shows([user], FIRST, TOOL_NAME, place=place, tools=tools))
    place = next(places, None)
    if not probe.shows([user], FIRST, place=place):
        return TemplateTraits(tools_place=place)
    shows, takes = partial(probe.shows, place=place), partial(probe.takes, place=place)
    shows_called, takes_called = partial(shows, tools=tools), partial(takes, tools=tools)
    is_late = partial(probe.is_late, FOURTH, THIRD, place=place, tools=tools)
    result = probe.message("tool", THIRD, tool_call_id=CALL_ID, name=TOOL_NAME)
    call, text_call = probe.called({"p": SECOND}), probe.called(_json({"p": SECOND}))
    wants_text = not takes_called([user, call, result]) and takes_called([user, text_call, result])
    call = text_call if wants_text else call
    broken = probe.called(SECOND)
    another = probe.called({"p": THIRD} if not wants_text else _json({"p": THIRD}))
    both = {**call, "tool_calls": [*call["tool_calls"], *another["tool_calls"]]}
    both_said = [user, {**call, "content": probe.message("assistant", FOURTH)["content"]}, result]
    is_written = shows_called([user, call, result], SECOND)
    takes_system = shows([system, user], FIRST, SECOND)
    return TemplateTraits(
        tools_place=place,
        writes_calls=is_written,
        writes_results=shows_called([user, call, result], THIRD),
        wants_text_arguments=wants_text,
        takes_several_calls=not shows_called([user, call], SECOND) or shows_called([user, both], SECOND, THIRD),
        takes_broken_arguments=shows_called([user, broken, result], SECOND) or not is_written,
        writes_calls_beside_text=not is_written or (shows_called(both_said, SECOND, FOURTH) and not is_late(both_said)),
        thinks_in_parts=all(
            shows_called([user, {**call, **fields}, result], FOURTH) == is_shown
            for is_shown, fields in (
                (True, {"content": [{"type": "thinking", "thinking": FOURTH}]}),
                (False, {"content": [{"type": "other", "thinking": FOURTH}]}),
                (False, {"reasoning_content": FOURTH}),
            )
        ),
        takes_system=takes_system,
        takes_systems=takes_system and shows([system, later, user], FIRST, SECOND, THIRD),
        takes_late_system=takes_system and shows([system, user, answer, later, user], FIRST, SECOND, THIRD),
        takes_system_alone=not takes_system or shows([system], SECOND),
        takes_empty_answers=takes([user, probe.message("assistant", ""), user]) or not takes([user, answer, user]),
        alternates=not takes([user, user]),
        efforts=tuple(effort for effort in EFFORTS if probe.takes_effort(user, effort, place)),
    )


@dataclass(frozen=True, slots=True)
class TemplateProbe:
    """Renders small conversations with one template."""

    source: str
    special_tokens: Mapping[str, str]
    in_parts: bool

    def message(self, role: str, text: str, **fields: Any) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self.in_parts else text, **fields}

    def called(self, arguments: Any) -> dict[str, Any]:
        call = {"id": CALL_ID, "type": "function", "function": {"name": TOOL_NAME, "arguments": arguments}}
        return self.message("assistant", "", tool_calls=[call])

    def takes(self, messages: Sequence[Message], *, place: ToolsPlace | None, tools: Sequence[Any] = ()) -> bool:
        return self._rendered(messages, place, tools) is not None

    def shows(
        self, messages: Sequence[Message], *texts: str, place: ToolsPlace | None, tools: Sequence[Any] = ()
    ) -> bool:
        """The template takes these messages, and all of the texts stand in the prompt."""
        rendered = self._rendered(messages, place, tools) or ""
        return all(text in rendered for text in texts)

    def is_late(
        self, text: str, later: str, messages: Sequence[Message], *, place: ToolsPlace | None, tools: Sequence[Any]
    ) -> bool:
        """Both texts stand in the prompt, and the one of the earlier message behind the other."""
        rendered = self._rendered(messages, place, tools) or ""
        return later in rendered and rendered.find(text) > rendered.find(later)

    def takes_effort(self, user: Message, effort: str, place: ToolsPlace | None) -> bool:
        has_efforts = "reasoning_effort" in self.source
        return not has_efforts or self._rendered([user], place, (), reasoning_effort=effort) is not None

    def _rendered(
        self, messages: Sequence[Message], place: ToolsPlace | None, tools: Sequence[Any], **options: str
    ) -> str | None:
        """None for a conversation that the template refuses."""
        messages, tools, variables = placed(place, messages, tools)
        try:
            return render_template(
                self.source,
                messages,
                tools,
                add_generation_prompt=True,
                continue_final=False,
                variables={**self.special_tokens, **variables, **options},
            )
        except REFUSALS:
            return None
