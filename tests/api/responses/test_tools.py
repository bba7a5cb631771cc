"""The tools of a responses request: what the model is shown, and how its calls come back."""

import json
import time

import pytest

from api.reading.choice import ParseOptions
from api.responses.chunks import ResponseChunks
from common.errors import InvalidRequest
from tests.api.events import fed, folded, log
from tests.api.responses.test_prepare import TOOL, as_chat, form, sent
from tests.growth import is_linear

HOSTED = (
    *("web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "mcp", "local_shell"),
    *("shell", "apply_patch", "computer_use_preview", "tool_search", "of_a_later_year"),
)
SPAWN = {"type": "function", "name": "spawn", "description": "Starts one.", "parameters": {"type": "object"}}
AGENTS = {
    "type": "namespace",
    "name": "agents_v1",
    "description": "Sub-agents.",
    "tools": [SPAWN, SPAWN | {"name": "stop"}],
}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Patches."}
SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds.", "parameters": {"type": "object"}}


def names(chat):
    return [getattr(tool, tool.type).name for tool in chat.tools]


@pytest.mark.parametrize("kind", HOSTED)
def test_a_built_in_tool_that_is_only_offered_is_left_out(kind, encoder):
    hosted = {"type": kind, "external_web_access": True, "server_label": "s"}
    assert names(as_chat(tools=[hosted, TOOL])) == ["add"]
    ready = sent(encoder, tools=[hosted], tool_choice="auto")
    assert ready.meta.echo["tools"] == [] and ready.meta.reading.tool_dialect is None


@pytest.mark.parametrize("kind", HOSTED)
@pytest.mark.parametrize("form_of", [lambda kind: {"type": kind}, lambda _: "required"])
def test_a_built_in_tool_that_is_demanded_is_refused_by_name(kind, form_of):
    with pytest.raises(InvalidRequest, match=kind) as refused:
        as_chat(tools=[{"type": kind}], tool_choice=form_of(kind))
    assert refused.value.param == "tool_choice"


def test_allowed_tools_may_have_built_in_ones_among_them():
    def chosen(mode, *tools):
        choice = {"type": "allowed_tools", "mode": mode, "tools": list(tools)}
        return as_chat(tools=[{"type": "web_search"}, TOOL, AGENTS], tool_choice=choice).tool_choice

    hosted, own = {"type": "web_search"}, {"type": "function", "name": "add"}
    assert [tool.function.name for tool in chosen("required", hosted, own).allowed_tools.tools] == ["add"]
    assert chosen("auto", hosted) == "none"
    agents = chosen("auto", {"type": "namespace", "name": "agents_v1"})
    assert [tool.function.name for tool in agents.allowed_tools.tools] == ["agents_v1__spawn", "agents_v1__stop"]
    with pytest.raises(InvalidRequest, match="web_search"):
        chosen("required", hosted)


def seconds_to_allow(num_functions: int) -> float:
    """Processor time to read a choice of so many functions, each of which a namespace named as often has, too."""
    many = {"type": "namespace", "name": "n", "tools": [SPAWN | {"name": f"f{at}"} for at in range(num_functions)]}
    named = [{"type": "function", "name": f"f{at}"} for at in range(num_functions)]
    choice = {"type": "allowed_tools", "tools": [*named, *[{"type": "namespace", "name": "n"}] * num_functions]}
    started = time.thread_time()
    allowed = as_chat(tools=[many], tool_choice=choice).tool_choice.allowed_tools.tools
    seconds = time.thread_time() - started
    assert [tool.function.name for tool in allowed] == [f"n__f{at}" for at in range(num_functions)]
    return seconds


def test_many_functions_may_be_allowed_and_each_counts_once():
    assert is_linear(seconds_to_allow, 128)


def test_a_namespace_becomes_functions_under_its_name(encoder):
    chat = as_chat(tools=[AGENTS, {"type": "namespace", "name": "mcp__files__", "tools": [SPAWN]}])
    assert names(chat) == ["agents_v1__spawn", "agents_v1__stop", "mcp__files__spawn"]
    assert [tool.function.description for tool in chat.tools] == [
        "Sub-agents.\n\nStarts one.",
        "Starts one.",
        "Starts one.",
    ]
    named = as_chat(tools=[AGENTS], tool_choice={"type": "function", "name": "stop"})
    assert named.tool_choice.function.name == "agents_v1__stop"
    assert sent(encoder, tools=[AGENTS]).meta.calls["agents_v1__spawn"] == {"namespace": "agents_v1", "name": "spawn"}


def test_tools_that_the_client_found_are_offered_too():
    found = {"type": "tool_search_output", "call_id": "c", "tools": [AGENTS, TOOL, {"type": "web_search"}]}
    later = {"type": "additional_tools", "role": "developer", "tools": [SPAWN]}
    chat = as_chat(tools=[TOOL, SEARCH], input=[{"role": "user", "content": "Hi"}, found, later])
    assert names(chat) == ["add", "tool_search", "agents_v1__spawn", "agents_v1__stop", "spawn"]


def called(encoder, name, arguments, tools, step=3):
    meta = sent(encoder, tools=tools).meta
    text = f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'
    return fed(ResponseChunks(form(calls=meta.calls, reading=meta.reading), encoder), log(text, step=step))


@pytest.mark.parametrize("name", ["agents_v1__spawn", "spawn"])
def test_a_call_comes_back_with_its_namespace(name, encoder):
    events = called(encoder, name, {"a": 1}, [AGENTS])
    [item] = events[-1]["response"]["output"]
    assert (item["type"], item["namespace"], item["name"]) == ("function_call", "agents_v1", "spawn")
    assert json.loads(item["arguments"]) == {"a": 1}
    assert events[2]["item"]["namespace"] == "agents_v1"


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_a_custom_tool_s_call_has_its_own_item_and_events(step, encoder):
    events = called(encoder, "apply_patch", {"input": "*** Begin\n+é"}, [PATCH], step)
    [item] = events[-1]["response"]["output"]
    assert {k: item[k] for k in ("type", "name", "input", "status")} == {
        "type": "custom_tool_call",
        "name": "apply_patch",
        "input": "*** Begin\n+é",
        "status": "completed",
    }
    assert item["id"].startswith("ctc_") and item["call_id"].startswith("call_")
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[2] == "output_item.added" and kinds[-3:] == [
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == events[-3]["input"] == item["input"]
    assert not any("function_call_arguments" in kind for kind in kinds)


def test_a_search_for_tools_is_a_call_of_its_own_kind(encoder):
    events = called(encoder, "tool_search", {"query": "mail"}, [SEARCH])
    [item] = events[-1]["response"]["output"]
    assert (item["type"], item["execution"], item["arguments"]) == ("tool_search_call", "client", {"query": "mail"})
    assert [event["type"] for event in events[2:-1]] == ["response.output_item.added", "response.output_item.done"]


def test_a_custom_call_that_is_cut_off_is_no_call(encoder):
    options = ParseOptions(tool_dialect="hermes", custom_tools=("apply_patch",))
    text = '<tool_call>\n{"name": "apply_patch", "arguments": {"input": "*** Beg'
    events = fed(ResponseChunks(form(reading=options), encoder), log(text, finish_reason="length"))
    assert events[-1]["response"]["output"] == [] and events[-1]["type"] == "response.incomplete"
    assert not any(event["type"].endswith(".done") for event in events)


def test_a_job_without_renamed_calls_is_stored_as_before(encoder):
    [stored] = sent(encoder, tools=[TOOL]).meta.forms()
    assert "calls" not in stored and "num_dropped" not in stored
    assert type(sent(encoder).meta).from_forms([stored]).calls == {}


def test_a_search_with_arguments_that_python_cannot_read_searches_for_nothing(encoder):
    text = f'<tool_call>\n{{"name": "tool_search", "arguments": {{"a": {"9" * 5000}}}}}\n</tool_call>'
    meta = sent(encoder, tools=[SEARCH]).meta
    made = folded(ResponseChunks(form(calls=meta.calls, reading=meta.reading), encoder), log(text))
    assert [item["arguments"] for item in made["output"]] == [{}]


def test_a_plain_function_s_call_is_not_that_of_a_namespace_with_the_same_name(encoder):
    tools = [SPAWN, AGENTS]
    for name, expected in (("spawn", None), ("agents_v1__spawn", "agents_v1")):
        [item] = called(encoder, name, {}, tools)[-1]["response"]["output"]
        assert (item["name"], item.get("namespace")) == ("spawn", expected)
