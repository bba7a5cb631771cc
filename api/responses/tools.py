"""The tools of a responses request as chat tools, and how each call comes back to the caller.

Namespaces become functions, a custom tool stays one, and tools that only OpenAI could run are left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.schema.chat import (
    AllowedTools,
    AllowedToolsChoice,
    CustomDefinition,
    CustomFormat,
    CustomGrammar,
    CustomTool,
    FunctionDefinition,
    NamedFunction,
    NamedTool,
    Tool,
    ToolChoice,
)
from api.schema.response_items import InputItem, LoadedToolsItem
from api.schema.response_tools import (
    AllowedChoice,
    FreeformTool,
    FunctionTool,
    MemberTool,
    NamespaceTool,
    ProviderTool,
    ResponseTool,
    SearchTool,
    ToolReference,
)
from common.errors import InvalidRequest

SEARCH = "tool_search"  # the function by which a model asks the client for further tools


@dataclass(slots=True)
class OfferedTools:
    """Chat tools under the names that the model is shown."""

    tools: list[Tool | CustomTool] = field(default_factory=list)
    calls: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> what its call items have besides the name
    members: dict[str, list[str]] = field(default_factory=dict)  # namespace -> names of its functions
    left_out: list[str] = field(default_factory=list)  # types
    names: set[str] = field(default_factory=set)  # of `tools`

    def add(self, tool: MemberTool, namespace: NamespaceTool | None, *, is_first: bool = False) -> None:
        if isinstance(tool, ProviderTool):
            self.left_out.append(tool.type)
            return
        name = _shown_as(tool, namespace)
        lead = namespace.description if namespace and is_first else None
        self.names.add(name)
        self.tools.append(_chat_tool(tool, name, "\n\n".join(filter(None, (lead, tool.description))) or None))
        if isinstance(tool, SearchTool):
            self.calls[name] = {"type": "tool_search_call"}
        if namespace is not None:
            self.calls[name] = {"namespace": namespace.name, "name": getattr(tool, "name", SEARCH)}
            self.members.setdefault(namespace.name, []).append(name)

    def choice(self, choice: str | AllowedChoice | ToolReference | None) -> ToolChoice | None:
        """Raises InvalidRequest when the choice demands a tool that is left out."""
        if isinstance(choice, AllowedChoice):
            return self._allowed(choice)
        if isinstance(choice, ToolReference):
            if not (names := self._names(choice, self._by_own_name())):
                raise self._refusal([choice.type])
            return NamedTool(function=NamedFunction(name=names[0]))
        if choice == "required" and self.left_out and not self.tools:
            raise self._refusal(self.left_out)
        return choice  # type: ignore[return-value]  # the gate let three words through

    def _allowed(self, choice: AllowedChoice) -> ToolChoice:
        references = {(tool.type, tool.namespace, tool.name): tool for tool in choice.tools}
        by_own_name = self._by_own_name()
        found = (name for tool in references.values() for name in self._names(tool, by_own_name))
        names = list(dict.fromkeys(found))
        if names:
            # Not validated again: a chat request's list is shorter.
            tools = [NamedTool.model_construct(function=NamedFunction.model_construct(name=name)) for name in names]
            allowed = AllowedTools.model_construct(mode=choice.mode, tools=tools)
            return AllowedToolsChoice.model_construct(type="allowed_tools", allowed_tools=allowed)
        if choice.mode == "required":
            raise self._refusal([tool.type for tool in choice.tools])
        return "none"

    def _names(self, wanted: ToolReference, by_own_name: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """The functions that a choice names; none for a tool that is left out."""
        if wanted.type == "namespace":
            return self.members.get(wanted.name or "", ())
        if wanted.type == SEARCH:
            return [SEARCH] if SEARCH in self.calls else ()
        if wanted.type not in ("function", "custom") or wanted.name is None:
            return ()
        name = shown_name(wanted.namespace, wanted.name)
        inside = by_own_name.get(wanted.name, ())
        return [name] if name in self.names or len(inside) != 1 else inside

    def _by_own_name(self) -> dict[str, list[str]]:
        """For each name of a function in a namespace, the names that the model is shown."""
        result: dict[str, list[str]] = {}
        for shown, call in self.calls.items():
            if "name" in call:
                result.setdefault(call["name"], []).append(shown)
        return result

    def _refusal(self, types: Iterable[str]) -> InvalidRequest:
        kinds = ", ".join(dict.fromkeys(repr(kind[:64]) for kind in types))
        return InvalidRequest(
            f"'tool_choice' demands a tool that this server does not run: {kinds}.", param="tool_choice"
        )


def offered_tools(tools: Sequence[ResponseTool], items: Iterable[InputItem] = ()) -> OfferedTools:
    """The request's tools, then those that the items of the conversation load. A name that is there stays as it is."""
    offered = OfferedTools()
    for tool, namespace, is_first in _flat(tools):
        offered.add(tool, namespace, is_first=is_first)
    for loaded in items:
        for tool, namespace, is_first in _flat(loaded.tools) if isinstance(loaded, LoadedToolsItem) else ():
            name = _shown_as(tool, namespace)
            if name not in offered.names and not isinstance(tool, ProviderTool):
                offered.add(tool, namespace, is_first=is_first)
    inside = {call.get("name") for call in offered.calls.values()}
    for name in offered.names & inside - offered.calls.keys():  # as_sent() takes an unknown name for a namespace's
        offered.calls[name] = {"name": name}
    return offered


def names_in(tools: Sequence[ResponseTool]) -> list[str]:
    """The names under which the model is shown these tools."""
    return [_shown_as(tool, space) for tool, space, _ in _flat(tools) if not isinstance(tool, ProviderTool)]


def shown_name(namespace: str | None, name: str) -> str:
    """The name under which the model is shown a function, or sees a call of it."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


def _shown_as(tool: MemberTool, namespace: NamespaceTool | None) -> str:
    return shown_name(namespace.name if namespace else None, getattr(tool, "name", tool.type))


def tool_name(tool: Tool | CustomTool) -> str:
    return tool.function.name if isinstance(tool, Tool) else tool.custom.name


def _flat(tools: Sequence[ResponseTool]) -> Iterator[tuple[MemberTool, NamespaceTool | None, bool]]:
    """Each tool, with its namespace, and whether it is the first one there."""
    for tool in tools:
        if isinstance(tool, NamespaceTool):
            yield from ((member, tool, number == 0) for number, member in enumerate(tool.tools))
        else:
            yield tool, None, False


def _chat_tool(tool: FunctionTool | FreeformTool | SearchTool, name: str, description: str | None) -> Tool | CustomTool:
    # Not validated again: the names of functions in namespaces are longer than a chat request's.
    if isinstance(tool, FreeformTool):
        custom = CustomDefinition.model_construct(name=name, description=description, format=_format(tool))
        return CustomTool.model_construct(type="custom", custom=custom)
    strict = tool.strict if isinstance(tool, FunctionTool) else None
    function = FunctionDefinition.model_construct(
        name=name, description=description, parameters=tool.parameters, strict=strict
    )
    return Tool.model_construct(type="function", function=function)


def _format(tool: FreeformTool) -> CustomFormat | None:
    wanted = tool.format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.syntax is None or wanted.definition is None:
        raise InvalidRequest(f"'tools': the grammar of {tool.name!r} needs 'syntax' and 'definition'.", param="tools")
    return CustomFormat(type="grammar", grammar=CustomGrammar(syntax=wanted.syntax, definition=wanted.definition))


def as_sent(calls: Mapping[str, Mapping[str, str]], name: str) -> dict[str, Any]:
    """A call item's type, name and namespace, for the name that the model wrote."""
    known = calls.get(name)
    if known is None:  # a model may leave the namespace out
        inside = [call for call in calls.values() if call.get("name") == name]
        known = inside[0] if len(inside) == 1 else {}
    return {"name": name} | dict(known)
