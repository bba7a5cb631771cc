"""The items of a conversation as chat messages."""

import json

import pytest

from api.responses.items import messages_of
from api.schema.response_items import StoredItems

USER = {"role": "user", "content": "Hi"}


def messages(*items):
    return messages_of(None, StoredItems(items=[USER, *items]).items)[1:]


def call_and_result(*items):
    """The name and arguments of the one call, and its result."""
    assistant, result = messages(*items)
    [call] = assistant.tool_calls
    assert call.id == result.tool_call_id
    return call.function.name, call.function.arguments, result.content


def test_a_call_in_a_namespace_and_a_custom_tool_s_are_calls_of_functions():
    call = {"type": "function_call", "call_id": "c", "namespace": "multi_agent_v1", "name": "spawn", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "ok"}
    assert call_and_result(call, output) == ("multi_agent_v1__spawn", "{}", "ok")
    call = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "apply_patch", "input": 'a\n"b"'}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"}
    assert call_and_result(call, output) == ("apply_patch", json.dumps({"input": 'a\n"b"'}), "ok")


@pytest.mark.parametrize("field", ["content", "summary"])
def test_reasoning_comes_back_as_it_was_sent_in_full_or_as_the_summary(field):
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, field: [{"type": "any", "text": "hm"}]}
    [message] = messages(item, {"role": "assistant", "content": "a"})
    assert (message.reasoning_content, message.content) == ("hm", "a")


def test_a_result_may_have_parts_with_images():
    parts = [{"type": "input_text", "text": "seen"}, {"type": "input_image", "image_url": "data:image/png;base64,AA=="}]
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    _, _, content = call_and_result(call, {"type": "function_call_output", "call_id": "c", "output": parts})
    assert [part.type for part in content] == ["input_text", "input_image"] and content[1].image_url.url


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (
            (
                {"type": "local_shell_call", "id": "l", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
                {"type": "local_shell_call_output", "id": "c", "output": "a.txt"},
            ),
            ("local_shell", '{"type": "exec", "command": ["ls"]}', "a.txt"),
        ),
        (
            (
                {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
                {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "a.txt", "stderr": ""}]},
            ),
            ("shell", '{"commands": ["ls"]}', '[{"stdout": "a.txt", "stderr": ""}]'),
        ),
        (
            (
                {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "a"}},
                {"type": "apply_patch_call_output", "call_id": "c", "status": "completed"},
            ),
            ("apply_patch", '{"type": "delete_file", "path": "a"}', "{}"),
        ),
        (
            ({"type": "mcp_call", "id": "m", "server_label": "s", "name": "find", "arguments": "{}", "output": "x"},),
            ("find", "{}", "x"),
        ),
        (
            (
                {"type": "tool_search_call", "call_id": "c", "execution": "client", "arguments": {"query": "mail"}},
                {"type": "tool_search_output", "call_id": "c", "tools": [{"type": "function", "name": "send"}]},
            ),
            ("tool_search", '{"query": "mail"}', '{"tools": ["send"]}'),
        ),
    ],
)
def test_calls_of_built_in_tools_are_shown_as_calls_of_functions(items, expected):
    assert call_and_result(*items) == expected


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "file_search_call", "id": "f", "queries": ["x"], "results": None},
        {"type": "code_interpreter_call", "id": "c", "code": "1", "outputs": []},
        {"type": "image_generation_call", "id": "i", "result": "AAAA"},
        {"type": "computer_call", "id": "c", "call_id": "c", "action": {"type": "click"}},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}},
        {"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": []},
        {"type": "mcp_approval_request", "id": "m", "name": "find", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "m", "approve": True},
        {"type": "compaction", "id": "cmp", "encrypted_content": "gAAA"},
        {"type": "context_compaction", "encrypted_content": "gAAA"},
        {"type": "configuration_update", "model": "other"},
        {"type": "ghost_snapshot", "ghost_commit": {"id": "abc"}},
        {"type": "agent_message", "author": "/root", "content": [{"type": "encrypted_content"}]},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]},
        {"type": "program_output", "id": 5, "call_id": ["odd"], "result": "1"},
        {"type": "of a later year", "id": {"odd": 1}, "name": 7, "output": [[]]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": "gAAA"},
    ],
)
def test_items_that_say_nothing_to_this_model_are_read_past(item):
    assert messages(item) == []


def test_encrypted_parts_are_read_past():
    parts = [{"type": "encrypted_content", "encrypted_content": "gAAA"}, {"type": "input_text", "text": "seen"}]
    output = {"type": "function_call_output", "call_id": "c", "output": parts}
    assert [[part.text for part in message.content] for message in messages(output, USER | {"content": parts})] == [
        ["seen"],
        ["seen"],
    ]


def test_an_assistant_s_message_with_parts_of_other_types_keeps_its_words():
    parts = [{"type": "output_text", "text": "a"}, {"type": "of a later year"}, {"type": "refusal", "refusal": "b"}]
    [message] = messages({"role": "assistant", "content": parts})
    assert message.content == "ab"


def test_a_line_of_text_stands_for_a_file_in_a_result():
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_file", "filename": "a", "file_data": "x"}]
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    _, _, content = call_and_result(call, {"type": "function_call_output", "call_id": "c", "output": parts})
    assert [part.text for part in content] == ["a", "[input_file left out: this server reads text and images only]"]
