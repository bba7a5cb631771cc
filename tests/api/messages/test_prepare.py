"""Anthropic's request as a chat request."""

import pytest

from api.chat.prepare import chat_input
from api.messages.prepare import chat_request
from api.schema.messages import MessagesRequest
from api.schema.parse import parse
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck

TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def asked(**body):
    given = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return parse(MessagesRequest, given | body)


def test_blocks_become_messages():
    call = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}], "is_error": True}
    chat = chat_request(
        asked(
            system=[{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
            messages=[
                {"role": "user", "content": "1+1"},
                {"role": "assistant", "content": [thought, {"type": "text", "text": "I add."}, call]},
                {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
            ],
        )
    )
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "tool", "user"]
    assert chat.messages[2].reasoning_content == "hm" and chat.messages[2].tool_calls[0].id == "t1"
    assert (chat.messages[3].content, chat.messages[4].content) == ("Error: 2", "And?")


def test_options_become_a_chat_requests(encoder):
    body = asked(
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["x"],
        temperature=0.2,
        top_k=3,
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    ready = chat_input(chat_request(body), encoder, GrammarCheck())
    assert (ready.sampling.temperature, ready.sampling.top_k) == (0.2, 3)
    assert ready.sampling.max_tokens == 9 and '"const":"add"' in ready.sampling.grammar
    assert chat_request(body).thinking.type == "enabled"


def test_requests_of_coding_agents_are_understood(encoder):
    ephemeral = {"cache_control": {"type": "ephemeral"}}
    body = asked(
        max_tokens=32_000,
        system=[{"type": "text", "text": "You are an agent."} | ephemeral],
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"} | ephemeral]}],
        tools=[TOOL | {"type": "custom", "description": "Adds."} | ephemeral],
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        metadata={"user_id": "me"},
        output_config={"effort": "high"},
    )
    ready = chat_input(chat_request(body), encoder, GrammarCheck())
    assert ready.sampling.max_tokens == 4096 - len(ready.prompt.ids)


def test_a_tool_result_keeps_its_images_and_names_what_nobody_here_reads():
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    results = [
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x.png"}, image]},
        {"type": "tool_result", "tool_use_id": "2", "is_error": True, "content": [document]},
    ]
    [seen, read] = chat_request(asked(messages=[{"role": "user", "content": results}])).messages[-2:]
    assert [part.type for part in seen.content] == ["text", "image_url"]
    assert seen.content[1].image_url.url == "data:image/png;base64,AAAA"
    assert read.content == "Error: [document left out: this server reads text and images only]"


def test_a_message_that_the_caller_began_is_continued():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]
    assert chat_request(asked(messages=turns)).continue_final_message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_and_named(change, param):
    with pytest.raises(InvalidRequest) as refused:
        chat_request(asked(**change))
    assert refused.value.param == param
