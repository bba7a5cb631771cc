"""Conversations that a chat template refuses, or of which it leaves something out."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from api.messages.prepare import chat_request as of_messages
from api.prompt.conversation import Conversation, render
from api.prompt.special_tokens import Guard
from api.responses.prepare import chat_request as of_responses
from api.responses.tools import offered_tools
from api.schema.chat import ChatRequest, Tool
from api.schema.messages import MessagesRequest
from api.schema.parse import parse
from api.schema.responses import ResponsesRequest
from common.errors import InvalidRequest
from tests.api.chat_requests import prepared
from tests.api.conftest import CHATML, card, chat_tokenizer

TURNS = "{%- for m in messages -%}[{{ m.role }}]{{ m.content }}{%- endfor -%}"
ONE_SYSTEM = (
    "{%- for m in messages -%}{%- if m.role == 'system' and not loop.first -%}"
    "{{ raise_exception('System message must be at the beginning.') }}{%- endif -%}{%- endfor -%}"
)
DROPPING = """{%- for m in messages -%}{%- if m.role != 'system' or loop.first -%}[{{ m.role }}]{{ m.content }}
{%- endif -%}{%- endfor -%}"""
ALTERNATING = """{%- set ns = namespace(number=0) -%}
{%- for m in (messages[1:] if messages[0].role == 'system' else messages) if m.role != 'tool' and not m.tool_calls -%}
{%- if (m.role == 'user') != (ns.number % 2 == 0) -%}{{ raise_exception('Roles must alternate.') }}{%- endif -%}
{%- set ns.number = ns.number + 1 -%}{%- endfor -%}"""
NO_SYSTEM = "{%- if messages[0].role == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}"
ONE_CALL = """{%- for m in messages -%}[{{ m.role }}]{{ m.content }}{%- if m.tool_calls -%}
{%- if m.tool_calls | length > 1 -%}{{ raise_exception('One call at once!') }}{%- endif -%}
{{- m.tool_calls[0].function.name ~ m.tool_calls[0].function.arguments | tojson }}{%- endif -%}{%- endfor -%}"""
DESCRIBED = (
    "{%- for tool in tools or [] -%}{{ tool.function.name ~ ': ' + tool.function.description }}{%- endfor -%}" + TURNS
)
TEXT_ARGUMENTS = """{%- for m in messages -%}[{{ m.role }}]{{ m.content }}{%- for c in m.tool_calls or [] -%}
{{- c.function.name + '(' + c.function.arguments + ')' -}}{%- endfor -%}{%- endfor -%}"""
OF_ITEMS = """{%- for m in messages -%}[{{ m.role }}]{{ m.content }}{%- for c in m.tool_calls or [] -%}
{{- c.function.name -}}{%- for name, value in c.function.arguments.items() -%}{%- endfor -%}
{{- c.function.arguments | tojson -}}{%- endfor -%}{%- endfor -%}"""
OF_OBJECTS = """{%- for m in messages -%}[{{ m.role }}]{{ m.content }}
{%- for f in (m.tool_calls or []) | map(attribute='function') -%}
{{- f.name ~ (f.arguments | tojson if f.arguments is mapping) -}}{%- endfor -%}{%- endfor -%}"""

A, B, LATE = ({"role": role, "content": text} for role, text in (("system", "A"), ("developer", "B"), ("system", "L")))
ASK, SAY, MORE = ({"role": role, "content": role[0]} for role in ("user", "assistant", "user"))
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}
SUM = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
OTHER = {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [SUM, OTHER]}
CALL = CALLS | {"tool_calls": [SUM]}
RESULTS = [{"role": "tool", "tool_call_id": f"c{number}", "content": f"r{number}"} for number in (1, 2)]


def rendered(template: str, messages: list[dict[str, Any]], tools: Any = (), **changes: Any) -> str:
    body = parse(ChatRequest, {"model": "tiny", "messages": messages})
    conversation = Conversation(body.messages, [Tool.model_validate(tool) for tool in tools])
    return render(conversation, card(chat_tokenizer(), chat_template=template, **changes), Guard(()))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([A, A, ASK], "[system]A\n\nA[user]u"),
        ([A, B, ASK], "[system]A\n\nB[user]u"),
        ([A, ASK, SAY, LATE, ASK], "[system]A[user]u[assistant]a[user]L[user]u"),
        ([ASK, LATE], "[user]u[user]L"),
        ([A, ASK, SAY], "[system]A[user]u[assistant]a"),
    ],
)
def test_a_template_that_wants_one_system_message_first_gets_one(messages, expected):
    assert rendered(ONE_SYSTEM + TURNS, messages) == expected


def test_system_messages_that_a_template_drops_are_not_lost():
    assert rendered(DROPPING, [A, B, ASK, SAY, LATE, ASK]) == "[system]A\n\nB[user]u[assistant]a[user]L[user]u"


def test_a_template_that_takes_the_messages_gets_them_as_they_are():
    messages = [A, B, ASK, ASK, SAY, SAY, LATE, ASK]
    expected = "[system]A[system]B[user]u[user]u[assistant]a[assistant]a[system]L[user]u"
    assert rendered(TURNS, messages) == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([A, ASK, MORE], "[system]A[user]u\n\nu"),
        ([ASK, SAY, SAY, ASK], "[user]u[assistant]a\n\na[user]u"),
        ([ASK, SAY, LATE, ASK], "[user]u[assistant]a[user]L\n\nu"),
        ([SAY, ASK], "[user][assistant]a[user]u"),
        ([ASK, CALL, RESULTS[0], ASK], "[user]u[assistant][tool]r1[assistant][user]u"),
        ([ASK, CALL, RESULTS[0], SAY, ASK], "[user]u[assistant][tool]r1[assistant]a[user]u"),
    ],
)
def test_a_template_whose_roles_must_alternate_gets_them_in_turn(messages, expected):
    assert rendered(ALTERNATING + ONE_SYSTEM + ONE_CALL, messages).replace('add{"a": 1}', "") == expected


def test_where_no_system_message_is_taken_its_text_begins_the_users_turn():
    assert rendered(NO_SYSTEM + ALTERNATING + TURNS, [A, B, ASK, SAY]) == "[user]A\n\nB\n\nu[assistant]a"


def test_a_template_that_refuses_several_calls_gets_each_before_its_result():
    expected = '[user]u[assistant]add{"a": 1}[tool]r1[assistant]now{}[tool]r2'
    assert rendered(ONE_CALL, [ASK, CALLS, *RESULTS]) == expected
    assert rendered(ONE_CALL, [ASK, CALLS, *reversed(RESULTS)]) == expected


def test_calls_that_a_template_drops_are_not_lost():
    dropping = ONE_CALL.replace("> 1", "> 9")
    assert rendered(dropping, [ASK, CALLS, *RESULTS]) == rendered(ONE_CALL, [ASK, CALLS, *RESULTS])


def test_where_text_hides_calls_it_gets_a_turn_of_its_own():
    either = """{%- for m in messages -%}[{{ m.role }}]
{{- m.content or (m.tool_calls[0].function.name ~ m.tool_calls[0].function.arguments | tojson) }}{%- endfor -%}"""
    expected = '[user]u[assistant]Wait.[assistant]add{"a": 1}[tool]r1'
    assert rendered(either, [ASK, CALL | {"content": "Wait."}, RESULTS[0]]) == expected


def test_a_template_that_shows_the_last_system_message_gets_no_second_one():
    last = """{%- set ns = namespace(text='') -%}{%- for m in messages if m.role == 'system' -%}
{%- set ns.text = m.content -%}{%- endfor -%}[system]{{ ns.text }}""" + TURNS.replace(
        "messages", "messages if m.role != 'system'"
    )
    assert rendered(last, [A, ASK, SAY, LATE, ASK]) == "[system]A[user]u[assistant]a[user]L[user]u"


def test_a_system_message_alone_is_the_users_turn_where_a_template_wants_one():
    asking = (
        "{%- if messages[-1].role == 'system' -%}{{ raise_exception('No user query found.') }}{%- endif -%}" + TURNS
    )
    assert rendered(asking, [A, B]) == "[system]A[user]B"
    assert rendered(TURNS, [A, B]) == "[system]A[system]B"


def test_an_empty_answer_is_a_space_where_a_template_wants_some_text():
    strict = TURNS.replace("{{ m.content }}", "{{ m.content or raise_exception('It must have content.') }}")
    assert rendered(strict, [ASK, SAY | {"content": ""}, ASK]) == "[user]u[assistant] [user]u"


def test_parameters_without_a_plain_type_are_taken_by_a_template_that_reads_it():
    typed = """{%- for tool in tools or [] -%}{{ tool.function.name }}(
{%- for name, p in tool.function.parameters.properties | items -%}{{ name + ': ' + p.type + ' ' + p.description + ' ' }}
{%- endfor -%}){%- endfor -%}"""
    properties = {
        "a": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        "b": {"type": ["null", "string"]},
        "c": {"$ref": "#/$defs/X"},
        "d": {"type": "boolean", "description": "D"},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    assert rendered(typed + TURNS, [ASK], [tool]) == "f(a: integer  b: string  c: string  d: boolean D )[user]u"


def test_a_template_that_joins_arguments_to_text_gets_them_as_json_text():
    assert rendered(TEXT_ARGUMENTS, [ASK, CALL, RESULTS[0]]) == '[user]u[assistant]add({"a": 1})[tool]r1'


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ('{"q": "Q', '{"q": "Q"}'),
        ('{"q": [1, {"a": "\\u003c|im_end|>', '{"q": [1, {"a": "<|im_end|>"}]}'),
        ('{"q": 1}', '{"q": 1}'),
        ("{", "{}"),
        ("[1]", '{"arguments": "[1]"}'),
        ("no JSON", '{"arguments": "no JSON"}'),
        ('{"q": Q}', '{"arguments": "{\\"q\\": Q}"}'),
    ],
)
def test_arguments_that_are_no_object_are_made_one_where_a_template_takes_no_other(sent, written):
    said = CALL | {"tool_calls": [SUM | {"function": {"name": "add", "arguments": sent}}]}
    for template in (OF_ITEMS, OF_OBJECTS):
        assert rendered(template, [ASK, said, RESULTS[0]]) == f"[user]u[assistant]add{written}[tool]r1"
    taken = rendered(ONE_CALL, [ASK, said, RESULTS[0]])
    assert sent == '{"q": 1}' or taken == f"[user]u[assistant]add{json.dumps(sent)}[tool]r1"


def test_results_stand_in_the_order_of_their_calls():
    expected = '[user]u[assistant]add{"a": 1}now{}[tool]r1[tool]r2'
    for order in (RESULTS, RESULTS[::-1]):
        assert rendered(OF_OBJECTS, [ASK, CALLS, *order]) == expected
    alone = {"role": "tool", "tool_call_id": "other", "content": "r0"}
    assert rendered(OF_OBJECTS, [ASK, CALLS, alone, *RESULTS[::-1]]) == expected + "[tool]r0"


def test_text_that_a_template_writes_behind_a_call_s_result_gets_a_turn_of_its_own_before_it():
    late = """{%- for m in messages if m.role != 'tool' -%}[{{ m.role }}]{%- if m.tool_calls -%}
{{- m.tool_calls[0].function.arguments | tojson -}}
{%- for r in messages if r.role == 'tool' -%}[tool]{{ r.content }}{%- endfor -%}{%- endif -%}
{{- m.content }}{%- endfor -%}"""
    early = late.replace("{{- m.content }}", "").replace("{%- if", "{{ m.content }}{%- if", 1)
    session = [ASK, CALL | {"content": "Wait."}, RESULTS[0]]
    assert rendered(late, session) == '[user]u[assistant]Wait.[assistant]{"a": 1}[tool]r1'
    assert rendered(early, session) == '[user]u[assistant]Wait.{"a": 1}[tool]r1'


def test_text_that_a_template_drops_beside_a_call_gets_a_turn_of_its_own():
    either = """{%- for m in messages -%}[{{ m.role }}]{%- if m.tool_calls -%}{{ m.tool_calls[0].function | tojson }}
{%- else -%}{{ m.content }}{%- endif -%}{%- endfor -%}"""
    written = '[user]u[assistant]Wait.[assistant]{"name": "add", "arguments": {"a": 1}}[tool]r1'
    assert rendered(either, [ASK, CALL | {"content": "Wait."}, RESULTS[0]]) == written


def test_reasoning_is_a_part_of_the_content_where_a_template_reads_no_other():
    chunks = """{%- for m in messages -%}[{{ m.role }}]{%- if m.content is string -%}{{ m.content }}{%- else -%}
{%- for p in m.content -%}{%- if p.type == 'thinking' -%}<{{ p.thinking }}>{%- else -%}{{ p.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}{%- for c in m.tool_calls or [] -%}{{ c.function.arguments | tojson }}{%- endfor -%}
{%- endfor -%}"""
    session = [ASK, CALL | {"content": "Wait.", "reasoning_content": "Hm."}, RESULTS[0], SAY | {"reasoning": "So."}]
    assert rendered(chunks, session) == '[user]u[assistant]<Hm.>Wait.{"a": 1}[tool]r1[assistant]<So.>a'
    assert rendered(TURNS, session[:1] + session[3:]) == "[user]u[assistant]a"


def test_reasoning_of_turns_that_become_one_is_not_lost():
    thoughts = [SAY | {"reasoning_content": f"R{number}"} for number in (1, 2)]
    prompt = rendered(
        ALTERNATING + TURNS.replace("{{ m.content", "<{{ m.reasoning_content }}>{{ m.content"), [ASK, *thoughts]
    )
    assert prompt.endswith("[assistant]<R1\n\nR2>a\n\na")


def test_calls_and_results_without_ids_belong_together_by_their_order():
    calls = CALLS | {"tool_calls": [SUM | {"id": None}, OTHER | {"id": None}]}
    results = [turn | {"tool_call_id": None} for turn in RESULTS]
    expected = '[user]u[assistant]add{"a": 1}[tool]r1[assistant]now{}[tool]r2'
    assert rendered(ONE_CALL, [ASK, calls, *results]) == expected


def test_a_template_s_refusal_is_what_is_said_beside_a_tool_of_an_odd_schema():
    odd = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"anyOf": 5}}}}
    with pytest.raises(InvalidRequest, match="No users!"):
        rendered("{{ raise_exception('No users!') }}", [ASK], [{"type": "function", "function": odd}])


def test_ids_with_special_tokens_in_them_tell_results_apart():
    messages = [
        ASK,
        CALLS | {"tool_calls": [SUM | {"id": "<|im_end|>1"}, OTHER | {"id": "<|im_end|>2"}]},
        *[turn | {"tool_call_id": f"<|im_end|>{2 - number}"} for number, turn in enumerate(RESULTS)],
    ]
    body = parse(ChatRequest, {"model": "tiny", "messages": messages})
    guard = Guard(["<|im_end|>"])
    prompt = render(Conversation(body.messages), card(chat_tokenizer(), chat_template=OF_OBJECTS), guard)
    assert prompt == '[user]u[assistant]add{"a": 1}now{}[tool]r2[tool]r1'


def test_a_tool_without_a_description_is_taken_by_a_template_that_reads_it():
    bare = {"type": "function", "function": {"name": "add"}}
    assert rendered(DESCRIBED, [ASK], [bare]) == "add: [user]u"


def test_what_is_refused_for_another_reason_is_refused_with_the_first_message():
    counting = "{{ raise_exception('No ' ~ messages | length ~ ' names!') if messages[0].name }}"
    with pytest.raises(InvalidRequest, match="No 3 names!"):
        rendered(counting + TURNS, [ASK | {"name": "x"}, SAY, SAY])


def test_images_stay_in_their_order_when_turns_are_joined():
    shown = """{%- for m in messages -%}[{{ m.role }}]{%- for p in m.content -%}
{{- '<image>' if p.type == 'image' else p.text }}{%- endfor -%}{%- endfor -%}"""
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    prompt = rendered(ALTERNATING + shown, [ASK, picture, ASK, SAY], accepts_images=True)
    assert prompt == "[user]u\n\n<image>\n\nu[assistant]a"


@pytest.mark.parametrize(
    ("effort", "shown"),
    [("low", "low"), ("minimal", "low"), ("medium", "high"), ("max", "high"), ("ultra", "high"), ("none", "")],
)
def test_an_effort_that_a_template_does_not_know_is_the_next_that_it_knows(effort, shown, encoder_of):
    knowing = (
        TURNS
        + """{%- if reasoning_effort -%}{%- if reasoning_effort not in ['low', 'high'] -%}
{{- raise_exception('Unknown effort ' ~ reasoning_effort) }}{%- endif -%}{{ reasoning_effort }}{%- endif -%}"""
    )
    encoder = encoder_of(chat_template=knowing)
    ready = prepared(encoder, messages=[ASK], reasoning_effort=effort)
    assert encoder.decode(ready.prompt.ids) == f"[user]u{shown}"


def test_a_system_message_is_one_part_because_some_templates_read_no_second_one():
    first_part = """{%- for m in messages -%}[{{ m.role }}]{{ m.content[0].text }}{%- endfor -%}"""
    parts = [{"type": "text", "text": text} for text in ("A", "B")]
    prompt = rendered(ONE_SYSTEM + first_part, [A | {"content": parts}, A, ASK], accepts_images=True)
    assert prompt == "[system]AB\n\nA[user]u"


def chat() -> ChatRequest:
    return parse(ChatRequest, {"model": "tiny", "messages": [A, B, ASK, SAY, LATE, ASK]})


def responses() -> ChatRequest:
    items = [{"role": "developer", "content": "B"}, ASK, SAY, {"role": "system", "content": "L"}, ASK]
    body = parse(ResponsesRequest, {"model": "tiny", "instructions": "A", "input": items})
    return of_responses(body, body.input, offered_tools((), body.input))


def messages() -> ChatRequest:
    turns = [{"role": "system", "content": "B"}, ASK, SAY, {"role": "system", "content": "L"}, ASK]
    return of_messages(parse(MessagesRequest, {"model": "tiny", "max_tokens": 9, "system": "A", "messages": turns}))


@pytest.mark.parametrize("asked", [chat, responses, messages])
def test_every_endpoint_s_system_messages_reach_a_template_that_wants_one(asked: Callable[[], ChatRequest], encoder_of):
    encoder = encoder_of(chat_template=ONE_SYSTEM + CHATML)
    body = asked().model_dump(exclude_unset=True, exclude_none=True, by_alias=True)
    text = encoder.decode(prepared(encoder, messages=body["messages"]).prompt.ids)
    assert text.startswith("<|im_start|>system\nA\n\nB<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant")
    assert "<|im_start|>user\nL<|im_end|>\n<|im_start|>user\nu<|im_end|>" in text
