"""JSON that is repaired or refused while it is being written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.reading.dialects.json_value import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_json_comes_out_as_it_was_written(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert strict_json(text) == text


@given(st.text('{}[]",:\\ \nuTruenal0.1-+e', max_size=24))
def test_accepted_text_is_json(text):
    if (written := strict_json(text)) is not None:
        json.loads(written, parse_constant=pytest.fail)
    else:
        with pytest.raises(ValueError):
            json.loads(text, parse_constant=refuse)


def refuse(constant):
    raise ValueError(constant)


@given(VALUES)
def test_what_python_prints_comes_out_as_json(value):
    """Only of `\\x` escapes it is not beyond doubt what they mean."""
    text = repr([value])
    if "\\x" not in text and "\\U" not in text and "\\u" not in text:
        assert json.loads(strict_json(text)) == [value]


@given(VALUES)
def test_commas_before_closing_brackets_are_left_out(value):
    text = json.dumps([value], indent=1)
    commas = text.replace("\n]", ",\n]").replace("\n}", ",\n}")
    assert strict_json(commas) == text


def test_text_that_only_resembles_a_value_is_none():
    assert [strict_json(text) for text in ("'a'", "NaN", "-Infinity", "[1] // 2", "// 1", "#1", "[1 / 2]")] == [
        None
    ] * 7
    assert strict_json("['a', NaN, # 1\n]") == '["a", null ]'
