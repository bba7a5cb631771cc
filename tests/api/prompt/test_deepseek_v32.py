import json

import pytest

from api.prompt.deepseek_v32 import encode_chat, thinking_wanted
from api.reading.answer import AnswerParser
from api.reading.dialects.tags.deepseek_v32 import DEEPSEEK_V32
from api.reading.pieces import Content, Reasoning, ToolCallArguments, ToolCallEnd, ToolCallStart
from common.errors import InvalidRequest

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
CALLS = (
    '\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
    '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜function_calls>"
)
SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi!", "reasoning_content": "A greeting."}
WEATHER = {"role": "user", "content": "Weather?"}


def call(id="c1", name="get_weather", arguments='{"city": "Paris", "days": 3}'):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls, **fields):
    return {"role": "assistant", "content": None, "tool_calls": list(calls or (call(),)), **fields}


def result(content="sunny", id="c1"):
    return {"role": "tool", "tool_call_id": id, "content": content}


def test_a_question_in_chat_mode():
    assert encode_chat([SYSTEM, HELLO]) == f"{BOS}Be brief.<｜User｜>Hello<｜Assistant｜></think>"


def test_a_question_in_thinking_mode():
    assert encode_chat([HELLO], thinking=True) == f"{BOS}<｜User｜>Hello<｜Assistant｜><think>"


def test_the_reasoning_of_turns_before_the_last_question_is_dropped():
    expected = f"{BOS}<｜User｜>Hello<｜Assistant｜></think>Hi!{EOS}<｜User｜>Weather?<｜Assistant｜><think>"
    assert encode_chat([HELLO, HI, WEATHER], thinking=True) == expected


def test_reasoning_is_kept_across_the_results_of_calls():
    messages = [WEATHER, calling(reasoning_content="I must look."), result()]
    assert encode_chat(messages, thinking=True) == (
        f"{BOS}<｜User｜>Weather?<｜Assistant｜><think>I must look.</think>{CALLS}{EOS}"
        "\n\n<function_results>\n<result>sunny</result>\n</function_results>\n\n<think>"
    )


def test_calls_and_results_in_chat_mode():
    messages = [WEATHER, calling(content="I look."), result(), {"role": "assistant", "content": "Sunny."}, HELLO]
    assert encode_chat(messages) == (
        f"{BOS}<｜User｜>Weather?<｜Assistant｜></think>I look.{CALLS}{EOS}"
        "\n\n<function_results>\n<result>sunny</result>\n</function_results>\n\n</think>"
        f"Sunny.{EOS}<｜User｜>Hello<｜Assistant｜></think>"
    )


def test_results_are_put_in_the_order_of_their_calls():
    messages = [WEATHER, calling(call("a"), call("b")), result("second", "b"), result("first", "a")]
    assert "<result>first</result>\n<result>second</result>" in encode_chat(messages)


def test_developer_messages_are_system_messages():
    developer = {"role": "developer", "content": "Be kind."}
    assert (
        encode_chat([SYSTEM, developer, HELLO]) == f"{BOS}Be brief.\n\nBe kind.<｜User｜>Hello<｜Assistant｜></think>"
    )


def test_a_later_system_message_is_the_user_s_in_its_place():
    late, developer = {"role": "system", "content": "Late."}, {"role": "developer", "content": "Later."}
    start = f"{BOS}Be brief.<｜User｜>Hello<｜Assistant｜></think>Hi!{EOS}"
    end = "<｜Assistant｜></think>"
    cases = {
        "before a question": ([late, developer, WEATHER], "<｜User｜>Late.\n\nLater.\n\nWeather?"),
        "after a question": ([WEATHER, late], "<｜User｜>Weather?\n\nLate."),
        "alone": ([late], "<｜User｜>Late."),
        "alone, before an answer": ([late, HI, WEATHER], f"<｜User｜>Late.{end}Hi!{EOS}<｜User｜>Weather?"),
    }
    for name, (messages, expected) in cases.items():
        assert encode_chat([SYSTEM, HELLO, HI, *messages]) == start + expected + end, name


@pytest.mark.parametrize("place", ["before the results", "between them", "after them"])
def test_a_system_message_beside_results_of_calls_is_the_user_s_after_them(place):
    late = {"role": "system", "content": "Late."}
    results = [result("1", "a"), result("2", "b")]
    results.insert(("before the results", "between them", "after them").index(place), late)
    text = encode_chat([WEATHER, calling(call("a"), call("b")), *results])
    listed = "\n\n<function_results>\n<result>1</result>\n<result>2</result>\n</function_results>\n\n"
    assert text.endswith(f"{listed}</think><｜User｜>Late.<｜Assistant｜></think>")


@pytest.mark.parametrize("thinking", [False, True])
def test_the_answer_s_beginning_can_be_left_out(thinking):
    told = [WEATHER, calling(), result()]
    for messages, end in (([HELLO], "<｜User｜>Hello"), (told, "</result>\n</function_results>\n\n")):
        assert encode_chat(messages, thinking=thinking, add_generation_prompt=False).endswith(end)


def test_tools_are_listed_in_the_system_text_one_json_line_each():
    functions = [{"name": "now", "parameters": {"type": "object"}}, {"name": "héllo", "description": "Greets"}]
    prompt = encode_chat([SYSTEM, HELLO], tools=[{"type": "function", "function": f} for f in functions])
    assert prompt.startswith(f"{BOS}Be brief.\n\n## Tools\n")
    listed = prompt.partition("<functions>\n")[2].partition("\n</functions>")[0].splitlines()
    assert [json.loads(line) for line in listed] == functions
    assert "héllo" in listed[1]
    assert prompt.endswith("</functions>\n<｜User｜>Hello<｜Assistant｜></think>")


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "json_object"}, '{"type": "object"}'),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}, '{"type": "array"}'),
    ],
)
def test_the_response_format_is_a_block_of_the_system_text(response_format, schema):
    prompt = encode_chat([SYSTEM, HELLO], response_format=response_format)
    assert prompt.startswith(f"{BOS}Be brief.\n\n## Response Format:\n\n")
    assert prompt.endswith(f"schema:\n{schema}<｜User｜>Hello<｜Assistant｜></think>")


def test_an_answer_can_be_continued():
    messages = [HELLO, {"role": "assistant", "content": "Good m"}]
    assert encode_chat(messages, continue_final=True) == f"{BOS}<｜User｜>Hello<｜Assistant｜></think>Good m"


@pytest.mark.parametrize(
    ("messages", "thinking"),
    [
        ([SYSTEM], False),
        ([result()], False),
        ([HELLO, result()], False),
        ([WEATHER, calling(), result(), result()], False),
        ([WEATHER, calling(call("a"), call("b")), result("x", "a"), HELLO], False),
        ([WEATHER, calling(call("a"), call("b")), result("x", "a")], False),
        ([WEATHER, calling(), result("x", "other")], False),
        ([WEATHER, calling(call("a"), call("b")), result("x", "a"), result("y", "a")], False),
        ([WEATHER, calling(call(arguments="{")), result()], False),
        ([WEATHER, calling(call(arguments="[1]")), result()], False),
        ([HELLO, HI], False),
        ([{"role": "function", "content": "x"}, HELLO], False),
        ([WEATHER, calling(), result(), {"role": "assistant", "content": "x"}, calling(), result()], True),
    ],
)
def test_a_field_that_the_format_cannot_express_is_refused_and_named(messages, thinking):
    with pytest.raises(InvalidRequest) as refused:
        encode_chat(messages, thinking=thinking)
    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    ("switches", "wanted"),
    [
        ({}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"thinking": True}, True),
        ({"thinking": False, "enable_thinking": True}, False),
        ({"enable_thinking": False, "reasoning_effort": "high"}, False),
    ],
)
def test_any_of_the_known_switches_turns_thinking_on(switches, wanted):
    assert thinking_wanted(switches) is wanted


def test_the_parser_reads_back_the_output_of_the_encoder():
    prompt = encode_chat([WEATHER, calling(content="I look.", reasoning_content="Hm."), result()], thinking=True)
    answer = prompt.partition("<think>")[2].partition(EOS)[0]
    parser = AnswerParser(DEEPSEEK_V32, "s", is_opened=True)
    reasoning, content, start, arguments, end = parser.feed(answer) + parser.finish()
    assert (reasoning, content) == (Reasoning("Hm."), Content("I look."))
    assert isinstance(start, ToolCallStart)
    assert start.name == "get_weather"
    assert (arguments, end) == (ToolCallArguments(0, '{"city": "Paris", "days": 3}'), ToolCallEnd(0))
