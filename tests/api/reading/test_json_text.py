"""A JSON object in a text that a model wrote."""

import json

import pytest

from api.reading.json_text import MAX_LEVELS, object_in


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, "b"]}', {"a": [1, "b"]}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": "x\\ud83dy"}', {"a": "x\ufffdy"}),
        ('{"\\udc00": {"b": ["\\ud800"]}}', {"\ufffd": {"b": ["\ufffd"]}}),
    ],
)
def test_an_object_is_read_and_half_of_an_emoji_replaced(text, value):
    assert object_in(text) == value
    json.dumps(object_in(text), ensure_ascii=False).encode()


@pytest.mark.parametrize("text", ["", "[1]", '"a"', '{"a": ', '{"a": ' + "9" * 5000 + "}"])
def test_what_is_not_a_readable_object_is_none(text):
    assert object_in(text) is None


@pytest.mark.parametrize("num_levels", [MAX_LEVELS + 1, 500, 900, 100_000])
def test_an_object_is_read_up_to_a_depth(num_levels):
    assert object_in('{"a":' + "[" * (MAX_LEVELS - 2) + "]" * (MAX_LEVELS - 2) + "}") is not None
    assert object_in('{"a":' + "[" * num_levels + "]" * num_levels + "}") is None
