"""Anthropic's request as a chat request."""

import re

import pytest

from api.chat.prepare import chat_input
from api.messages.prepare import chat_request, prepare
from api.schema.messages import MessagesRequest
from api.schema.parse import parse
from common.errors import ContextLengthExceeded, InvalidRequest
from common.grammar.check import GrammarCheck
from tests.api.calls import call_of

TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
WORDS = {"type": "text", "media_type": "text/plain", "data": "Once."}
SERVER_TOOLS = [
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    {"type": "web_fetch_20260318", "name": "web_fetch"},
    {"type": "code_execution_20260521", "name": "code_execution"},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "mcp_toolset", "mcp_server_name": "x"},
]


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
    document = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
    results = [
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x.png"}, image]},
        {"type": "tool_result", "tool_use_id": "2", "is_error": True, "content": [document]},
    ]
    [seen, read] = chat_request(asked(messages=[{"role": "user", "content": results}])).messages[-2:]
    assert [part.type for part in seen.content] == ["text", "image_url"]
    assert seen.content[1].image_url.url == "data:image/png;base64,AAAA"
    assert read.content == "Error: [document left out: this server reads text and images only]"


@pytest.mark.parametrize(("is_error", "text"), [(False, "12\n34"), (True, "Error: 12\n34")])
def test_each_text_of_a_tool_result_stands_on_lines_of_its_own(is_error, text, encoder):
    blocks = [{"type": "text", "text": "12"}, {"type": "text", "text": "34"}]
    result = {"type": "tool_result", "tool_use_id": "1", "is_error": is_error, "content": blocks}
    body = chat_request(asked(messages=[{"role": "user", "content": [result]}]))
    prompt = encoder.decode(chat_input(body, encoder, GrammarCheck()).prompt.ids)
    assert text in prompt


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
        ({"tools": [{"type": "computer_20250124", "name": "computer"}]}, "tools[0].type"),
        ({"tools": [TOOL | {"name": "a" * 129}]}, "tools[0].name"),
        ({"tools": [TOOL] * 1025}, "tools"),
        ({"messages": [{"role": "user", "content": [PDF]}]}, "messages[0].content[0]"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_and_named(change, param):
    with pytest.raises(InvalidRequest) as refused:
        chat_request(asked(**change))
    assert refused.value.param == param


def told(*blocks, **body):
    """The last message that the model reads of these blocks of the user's."""
    return chat_request(asked(messages=[{"role": "user", "content": list(blocks)}], **body)).messages[-1].content


def test_tools_that_anthropic_s_servers_run_are_left_out(encoder):
    body = chat_request(asked(tools=[*SERVER_TOOLS, TOOL | {"type": None, "defer_loading": True}]))
    assert [tool.function.name for tool in body.tools] == ["add"]
    assert chat_input(body, encoder, GrammarCheck()).options.tool_dialect == "hermes"
    alone = chat_input(chat_request(asked(tools=SERVER_TOOLS)), encoder, GrammarCheck())
    assert alone.options.tool_dialect is None
    with pytest.raises(InvalidRequest, match="not among the tools"):
        chosen = asked(tools=[*SERVER_TOOLS, TOOL], tool_choice={"type": "tool", "name": "web_search"})
        chat_input(chat_request(chosen), encoder, GrammarCheck())


def offered(tools, **body):
    return [tool.function.name for tool in chat_request(asked(tools=tools, **body)).tools]


def test_a_deferred_tool_is_shown_once_the_conversation_refers_to_it():
    later = TOOL | {"name": "later", "defer_loading": True}
    found = {"type": "tool_reference", "tool_name": "later"}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [found]}
    assert offered([TOOL, later]) == ["add"]
    for block in (found, result):
        assert offered([TOOL, later], messages=[{"role": "user", "content": [block]}]) == ["add", "later"]
    assert offered([TOOL, later], tool_choice={"type": "tool", "name": "later"}) == ["add", "later"]
    search = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}
    assert offered([TOOL, later, search]) == ["add", "later"]


def test_a_prompt_that_is_too_long_is_refused_in_words_that_claude_code_reads(encoder):
    raw = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "x" * 5000}]}
    with pytest.raises(ContextLengthExceeded) as refused:
        prepare(call_of(MessagesRequest, raw, encoder))
    assert re.fullmatch(r"prompt is too long: 5\d\d\d tokens > 4096 maximum", refused.value.message)


def test_there_may_be_many_tools_with_long_names(encoder_of):
    names = [f"mcp__{number:04}__".ljust(128, "x") for number in range(1024)]
    body = asked(tools=[TOOL | {"name": name} for name in names])
    encoder = encoder_of(max_model_len=400_000)
    assert len(chat_input(chat_request(body), encoder, GrammarCheck()).prompt.ids) > 128 * 1024


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "document", "source": WORDS}, "Once.\n"),
        ({"type": "document", "title": "A", "context": "B", "source": WORDS}, "A\nB\nOnce.\n"),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "On"}]}},
            "On\n",
        ),
        (
            {"type": "search_result", "source": "http://x", "title": "X", "content": [{"type": "text", "text": "y"}]},
            "X\nhttp://x\ny\n",
        ),
        ({"type": "compaction", "content": "So far."}, "So far."),
        ({"type": "tool_reference", "tool_name": "add"}, "Tool add is available."),
    ],
)
def test_blocks_that_are_text_in_another_form_are_read(block, text):
    assert told(block) == text
    assert told({"type": "tool_result", "tool_use_id": "1", "content": [block]}) == text


def test_what_anthropic_s_servers_wrote_for_themselves_is_left_out():
    history = [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "x"}]},
        {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {"type": "web_fetch_result"}},
        {"type": "text", "text": "Found."},
    ]
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": history}]
    assert chat_request(asked(messages=messages)).messages[-1].content == "Found."


BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=12345;"


@pytest.mark.parametrize(
    "system",
    [
        f"{BILLING}\nBe kind.",
        [{"type": "text", "text": BILLING}, {"type": "text", "text": "Be kind."}],
        [{"type": "text", "text": f"{BILLING}\nBe "}, {"type": "text", "text": "kind."}],
    ],
)
def test_a_system_prompt_s_line_about_billing_does_not_reach_the_model(system):
    """It changes with each request, so that no prefix would ever be cached."""
    assert chat_request(asked(system=system)).messages[0].content == "Be kind."


@pytest.mark.parametrize("system", [BILLING, [{"type": "text", "text": BILLING}]])
def test_a_system_prompt_of_the_line_about_billing_alone_is_none(system):
    assert [message.role for message in chat_request(asked(system=system)).messages] == ["user"]


def test_the_line_about_billing_is_text_like_any_other_outside_the_beginning_of_the_system_prompt():
    text = {"type": "text", "text": BILLING}
    said = asked(system=[{"type": "text", "text": "Be kind.\n"}, text], messages=[{"role": "user", "content": [text]}])
    assert [message.content for message in chat_request(said).messages] == [f"Be kind.\n{BILLING}", BILLING]


@pytest.mark.parametrize(("display", "is_shown"), [(None, True), ("summarized", True), ("omitted", False)])
def test_thinking_is_shown_unless_it_is_to_be_omitted(display, is_shown, encoder):
    body = asked(thinking={"type": "adaptive", "display": display})
    assert chat_input(chat_request(body), encoder, GrammarCheck()).options.shows_reasoning == is_shown


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "x"}}}},
            "output_config.format.schema.type",
        ),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"system": "x" * 9000}, "messages"),
    ],
)
def test_a_refusal_names_anthropic_s_fields(change, param, encoder):
    raw = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]} | change
    with pytest.raises(InvalidRequest) as refused:
        prepare(call_of(MessagesRequest, raw, encoder))
    assert refused.value.param == param
    assert "response_format" not in refused.value.message


def test_a_demand_for_a_tool_of_anthropic_s_servers_is_refused_as_such():
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    with pytest.raises(InvalidRequest, match="runs none") as refused:
        chat_request(asked(tools=tools, tool_choice={"type": "any"}))
    assert refused.value.param == "tool_choice"
