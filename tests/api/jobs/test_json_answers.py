"""JSON bodies are the same bytes whether serialized at once or in pieces."""

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.jobs import json_answers
from api.jobs.json_answers import dumped
from api.process.offload import is_large

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda child: st.lists(child, max_size=8) | st.dictionaries(st.text(max_size=5), child, max_size=4),
    max_leaves=40,
)


@settings(max_examples=200)
@given(VALUES)
def test_a_large_value_is_written_as_a_small_one(value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_answers, "GROUP", 2)
        patch.setattr(json_answers, "is_large", lambda value: is_large(value, 3))
        assert dumped(value) == orjson.dumps(value)


def test_a_whole_number_of_more_than_64_bits_is_written_too():
    value = {"schema": {"maximum": 2**64, "title": "é"}}
    assert json.loads(dumped(value)) == value


def test_half_a_surrogate_pair_that_a_model_wrote_is_written_too():
    value = {"input": json.loads(r'{"text": "\ud83d"}')}
    assert json.loads(dumped(value)) == value
