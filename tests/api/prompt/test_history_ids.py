"""The ids of earlier calls are those that the model's form has, whatever server made them."""

import pytest

from api.prompt.conversation import Conversation, render
from api.prompt.special_tokens import Guard
from api.schema.chat import Message
from tests.api.conftest import card, chat_tokenizer

TEMPLATE = """{%- for m in messages -%}
{%- for c in m.tool_calls or [] -%}[{{ c.id }}]{%- endfor -%}
{%- if m.role == 'tool' -%}({{ m.tool_call_id }}){%- endif -%}{%- endfor -%}"""
KIMI = TEMPLATE + "<|tool_call_begin|><|tool_call_argument_begin|>"
SOLAR = TEMPLATE + "<|tool_call:begin|>"
HERMES = TEMPLATE + "<tool_call>"
MISTRAL = """{{- tools or '' }}{%- for m in messages -%}{{ m.content }}{%- for c in m.tool_calls or [] -%}
{%- if c.id | length != 9 -%}{{ raise_exception('nine') }}{%- endif -%}{{ c.function.arguments.p }}{%- endfor -%}
{%- endfor -%}[TOOL_CALLS]"""


def calling(*ids):
    calls = [{"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in ids]
    return Message.model_validate({"role": "assistant", "content": "", "tool_calls": calls})


def result(call_id):
    return Message(role="tool", tool_call_id=call_id, content="1")


def rendered(template, *messages):
    asked = Message(role="user", content="Please.")
    return render(Conversation([asked, *messages]), card(chat_tokenizer(), chat_template=template), Guard(()))


def test_kimi_numbers_the_calls_of_the_whole_conversation_and_names_their_function():
    turns = (calling("call_1", "call_2"), result("call_2"), result("call_1"), calling("call_3"), result("call_3"))
    said = "[functions.f:0][functions.f:1](functions.f:0)(functions.f:1)[functions.f:2](functions.f:2)"
    assert rendered(KIMI, *turns).startswith(said)


def test_an_id_that_is_used_again_is_that_of_the_newest_call():
    turns = (calling("call_1"), result("call_1"), calling("call_1"), result("call_1"))
    said = "[functions.f:0](functions.f:0)[functions.f:1](functions.f:1)"
    assert rendered(KIMI, *turns).startswith(said)


@pytest.mark.parametrize(("template", "length"), [(SOLAR, 10), (MISTRAL + TEMPLATE, 9)])
def test_an_id_of_another_server_becomes_one_that_fits_and_one_that_fits_stays(template, length):
    long = "toolu_01A09q90qw90lq917835lq9"
    text = rendered(template, calling(long), result(long)).split("[TOOL_CALLS]")[-1]
    short = text[1 : 1 + length]
    assert short.isalnum()
    assert text.startswith(f"[{short}]({short})")
    assert rendered(template, calling(short), result(short)).endswith(text)


def test_other_forms_leave_ids_as_they_are():
    assert rendered(HERMES, calling("call_1"), result("call_1"), result("other")).startswith("[call_1](call_1)(other)")
