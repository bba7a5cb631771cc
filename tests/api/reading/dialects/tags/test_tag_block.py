"""Values between tags: whose they are, where they end, and what models leave out."""

import json
import time

import pytest

from api.reading.dialects.known import dialect_named
from api.reading.pieces import ToolCallArguments, ToolCallEnd
from api.reading.tool_calls import ToolCallParser
from tests.api.reading.dialects.reading import calls, parse
from tests.api.reading.dialects.tags.examples import TAGS
from tests.growth import is_linear

KINDS = {"f": {"s": "text", "n": "json", "o": "json", "u": "text|null", "l": "text|array"}}


def qwen(*parameters, name="f"):
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{written}</function>\n</tool_call>"


def arguments(text, name="qwen3_xml", kinds=KINDS):
    """The arguments of the only call; all of the text is read as this call, however it is cut."""
    made, content = calls(parse(name, [text], kinds))
    assert (made, content) == calls(parse(name, list(text), kinds))
    assert content.strip() == ""
    assert len(made) == 1
    return json.loads(made[0][1])


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("s", "Paris", "Paris"),
        ("s", "", ""),
        ("s", "\n", "\n"),
        ("s", "  a\n\tb\n", "  a\n\tb\n"),
        *(("s", text, text) for text in ("5", "true", "null", "[1]", '"quoted"', '{"a": 1}', "日本 🇫🇷")),
        ("s", "x</parameter> y", "x</parameter> y"),
        ("s", "</function>\n<parameter=a>\n", "</function>\n<parameter=a>\n"),
        ("s", "<tool_call>{", "<tool_call>{"),
        ("n", "5", 5),
        ("n", "True", True),
        ("n", "None", None),
        ("n", "five", "five"),
        ("o", '{"a": [1, {"b": "</parameter></function>"}]}', {"a": [1, {"b": "</parameter></function>"}]}),
        ("o", "{'a': 'it\"s', 'b': [True, None]}", {"a": 'it"s', "b": [True, None]}),
        ("u", "null", None),
        ("u", "None", None),
        ("u", "5", "5"),
        ("l", "[1, 2]", [1, 2]),
        ("l", "[draft] hello", "[draft] hello"),
        ("l", '{"a": 1}', '{"a": 1}'),
        ("l", '["</parameter></function>"]', ["</parameter></function>"]),
        ("l", '["</parameter>\n', '["</parameter>\n'),
        ("other", "5", 5),
        ("other", "five", "five"),
        ("other", '"five"', '"five"'),
    ],
)
def test_a_value_is_what_the_schema_says(key, written, value):
    assert arguments(qwen((key, written), ("n", "1"))) == {key: value, "n": 1} or key == "n"
    assert arguments(qwen((key, written))) == {key: value}


@pytest.mark.parametrize(
    "text",
    [
        "<function=f>\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call>",
        "<function=f>\n<parameter=s>\nx\n</parameter>\n</function>",
        "<tool_call>\n<function=f>\n<parameter=s>\nx\n</parameter>\n</function>",
        "<tool_call>\n<function=f>\n<parameter=s>\nx\n</parameter>\n",
        "<tool_call>\n<function=f>\n<parameter=s>\nx\n</parameter>\n</tool_call>",
        "<tool_call>\n<function=f>\n<parameter=s>\nx\n</function>\n</tool_call>",
        "<tool_call>\n<function=f>\n<parameter=s>\nx\n</function>",
        "<tool_call><function=f><parameter=s>x</parameter></function></tool_call>",
        "<tool_call>\n<function=f>\n<parameter=s>\nx\n</parameter>\n</function>\n</function>\n</tool_call>",
    ],
)
def test_tags_and_lines_that_models_leave_out_or_repeat_are_not_missed(text):
    assert arguments(text) == {"s": "x"}
    assert ToolCallEnd(0) in parse("qwen3_xml", [text], KINDS)


def test_calls_without_wrappers_follow_each_other():
    bare = "<function=f>\n<parameter=n>\n1\n</parameter>\n</function>\n"
    assert calls(parse("qwen3_xml", list("I look.\n" + bare * 2 + "Done."), KINDS)) == (
        [("f", '{"n": 1}')] * 2,
        "I look.\nDone.",
    )


def test_the_first_of_two_parameters_of_one_name_counts():
    assert arguments(qwen(("s", "a"), ("n", "1"), ("s", "b"))) == {"s": "a", "n": 1}


@pytest.mark.parametrize("name", TAGS)
def test_a_call_without_parameters_has_no_arguments(name):
    assert calls(parse(name, list(TAGS[name].written)))[0][-1] == ("now", "{}")


@pytest.mark.parametrize(
    "text",
    [
        "Write <function=NAME> for a call.",
        "<function=f>",
        "<function=f>\nhello",
        "<tool_call>\n<function=f>\nhello</function>",
        "<tool_call>\n<function=\n",
        "<tool_call></tool_call>",
        "a <function",
    ],
)
def test_text_that_proves_not_to_be_a_call_comes_out_unchanged(text):
    assert calls(parse("qwen3_xml", [text])) == calls(parse("qwen3_xml", list(text))) == ([], text)


@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize("kind", ["mixed", "json", "text|array|integer", "text|number"])
def test_a_value_may_be_deeper_or_longer_than_a_parser_of_json_takes(name, kind):
    for value in ("[" * 1_500 + "]" * 1_500, "9" * 5_000):
        text = TAGS[name].written.replace('Paris "X" <b>', "Paris").replace('"Paris"', "Paris").replace("Paris", value)
        made, _ = calls(parse(name, [text], {"get_weather": {"city": kind}}))
        assert value in made[0][1]


@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize("part", ["get_weather", "city"])
def test_a_name_is_too_long_for_a_tag_in_every_cutting_or_in_none(name, part):
    for size in (300, *range(460, 516, 3), 600):
        text = TAGS[name].written.replace(part, "x" * size)
        assert parse(name, [text]) == parse(name, list(text)) == parse(name, [text[:99], text[99:]])


@pytest.mark.parametrize("name", ["a<|sep|>b", "a\nb"])
def test_a_name_with_a_mark_or_a_line_break_begins_no_call_in_any_cutting(name):
    text = f'<|open|>tools<|sep|><|open|>call tool="{name}"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>'
    assert calls(parse("kimi_k3", [text])) == calls(parse("kimi_k3", list(text))) == ([], text)


def test_text_after_a_block_that_is_not_closed_is_content():
    text = '<minimax:tool_call>\n<invoke name="f">\n</invoke>\nThat was it.'
    assert calls(parse("minimax_m2", list(text))) == ([("f", "{}")], "\nThat was it.")


@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize("kind", ["mixed", "text|null", "text|array"])
def test_a_last_value_that_begins_like_a_list_is_read_without_its_tag(name, kind):
    for value in ("{", "[", "[1, 2", '{"a'):
        text = TAGS[name].parts[0].replace('Paris "X" <b>', value).replace("Paris", value)
        for deltas in ([text], list(text)):
            made, content = calls(parse(name, deltas, {"get_weather": {"city": kind}}))
            assert (json.loads(made[0][1])["city"], content) == (value, ""), text


def test_values_stream_while_they_are_written():
    parser = ToolCallParser(dialect_named("qwen3_xml"), "seed", KINDS)
    parser.feed("<tool_call>\n<function=f>\n<parameter=s>\n")
    assert parser.feed('one "two"') == [ToolCallArguments(0, 'one \\"two\\"')]
    assert parser.feed("\n</para") == []  # may be its end
    assert parser.feed("graph>") == [ToolCallArguments(0, "\\n</paragraph>")]
    parser.feed("\n</parameter>\n<parameter=o>\n")
    assert parser.feed('{"a": ["x') == [ToolCallArguments(0, '{"a": ["x')]


def test_lists_that_break_leave_the_call_incomplete_and_no_markup():
    pieces = parse("qwen3_xml", list(qwen(("o", "[1, }"), ("n", "1")) + "Bye."), KINDS)
    assert calls(pieces)[1] == "Bye."
    assert not any(isinstance(piece, ToolCallEnd) for piece in pieces)


def test_a_call_that_was_cut_off_inside_a_value_has_no_end():
    parser = ToolCallParser(dialect_named("qwen3_xml"), "seed", KINDS)
    text = qwen(("s", "abc"))
    pieces = parser.feed(text[: text.index("</function>")]) + parser.finish(is_cut=True)
    assert not any(isinstance(piece, ToolCallEnd) for piece in pieces)


def test_python_lists_and_cdata_are_read_as_the_templates_write_them():
    seed = "<seed:tool_call>\n<function=f>\n<parameter=l>[1, 'a', None]</parameter>\n</function>\n</seed:tool_call>"
    assert arguments(seed, "seed_oss") == {"l": [1, "a", None]}
    text = '<function name="f"><param name="other"><![CDATA[5]]></param><param name="n">5</param></function>'
    assert arguments(text, "minicpm5") == {"other": "5", "n": 5}


@pytest.mark.parametrize("name", TAGS)
def test_an_endless_value_is_read_in_linear_time(name):
    opened = TAGS[name].written.partition("Paris")[0]

    def seconds(number):
        parser = ToolCallParser(dialect_named(name), "seed")
        parser.feed(opened)
        began = time.process_time()
        for _ in range(number):
            parser.feed("a <b> \n ")
        return time.process_time() - began

    assert is_linear(seconds, 1_000)
