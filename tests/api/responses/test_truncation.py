"""What `truncation: "auto"` drops."""

import random

import pytest

from api.responses.truncation import fitted, units_of, without
from api.schema.response_items import StoredItems
from common.errors import ContextLengthExceeded
from tests.api.responses.test_prepare import TOOL, sent

RULES = {"role": "developer", "content": "Rules."}


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def call(call_id):
    return {"type": "function_call", "call_id": call_id, "name": "add", "arguments": "{}"}


def result(call_id):
    return {"type": "function_call_output", "call_id": call_id, "output": "2"}


def units(*items):
    return units_of(StoredItems(items=list(items)).items)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([user("a")], []),
        ([RULES, user("a"), said("b")], []),
        ([RULES, user("a"), said("b"), RULES, user("c"), user("d")], [[1, 2], [4]]),
        ([user("a"), user("b"), said("c"), user("d"), user("e"), said("f")], [[0], [1, 2], [3]]),
        ([user("a"), said("b"), user("c"), said("d"), user("e")], [[0, 1], [2, 3]]),
        ([user("a"), call("1"), result("1"), said("b"), user("c")], [[0, 1, 2, 3]]),
        ([user("a"), call("1"), result("1"), call("2"), result("2"), call("3"), result("3")], [[1, 2], [3, 4]]),
        ([user("a"), call("1"), call("2"), result("2"), said("b"), result("1"), said("c")], [[1, 2, 3, 4, 5]]),
        ([user("a"), call("1"), user("b"), result("1"), user("c")], [[0, 1, 2, 3]]),
        ([user("a"), call("lost"), user("b"), said("c"), user("d")], [[0, 1], [2, 3]]),
        ([call("1"), result("1"), call("2"), result("2")], [[0, 1]]),
    ],
)
def test_turns_are_dropped_whole_and_then_rounds_of_calls(items, expected):
    assert units(*items) == expected


def test_whatever_is_dropped_instructions_the_last_users_message_and_pairs_stay():
    chance = random.Random(3)
    for _ in range(500):
        made = [chance.choice([RULES, user("u"), said("a"), "call"]) for _ in range(chance.randrange(1, 14))]
        items, open_calls = [], []
        for number, item in enumerate(made):
            items.append(call(str(number)) if item == "call" else item)
            open_calls += [str(number)] if item == "call" else []
            while open_calls and chance.random() < 0.5:
                items.append(result(open_calls.pop()))
        items += [result(call_id) for call_id in open_calls]
        parsed = StoredItems(items=items).items
        found = units_of(parsed)
        for count in range(len(found) + 1):
            kept = without(parsed, found[:count])
            assert [i for i in kept if getattr(i, "role", "") == "developer"] == [
                i for i in parsed if getattr(i, "role", "") == "developer"
            ]
            calls = {i.call_id for i in kept if i.type == "function_call"}
            assert calls == {i.call_id for i in kept if i.type == "function_call_output"}
            users = [i for i in parsed if getattr(i, "role", "") == "user"]
            assert not users or any(i is users[-1] for i in kept)


def test_the_fewest_turns_that_leave_room_are_dropped():
    items = StoredItems(items=[user("a"), said("b")] * 50 + [user("c")]).items

    def build(some):
        if len(some) > 40:
            raise ContextLengthExceeded("too long", param="input")
        return list(some)

    kept, num_dropped = fitted(items, build, lambda made: len(made) <= 31)
    assert (len(kept), num_dropped, kept[-1]) == (31, 70, items[-1])
    kept, num_dropped = fitted(items[-20:], build, lambda made: len(made) <= 3)
    assert (len(kept), num_dropped) == (20, 0)
    with pytest.raises(ContextLengthExceeded):
        fitted(items[-1:], lambda _: build(items), lambda _: True)


def test_a_long_conversation_is_answered_with_auto_and_refused_without(encoder):
    long = [RULES, *[user("word " * 100), said("word " * 100)] * 10, user("last")]
    with pytest.raises(ContextLengthExceeded, match=r"4096 tokens, but the prompt has .* tokens"):
        sent(encoder, input=long, truncation="disabled")
    ready = sent(encoder, input=long, truncation="auto", max_output_tokens=100)
    text = encoder.decode(ready.requests[0].prompt_ids)
    assert "Rules." in text and "last" in text
    assert 0 < ready.meta.num_dropped < 20 and len(ready.meta.input) == 22
    assert len(ready.requests[0].prompt_ids) + 100 <= 4096 and ready.meta.echo["truncation"] == "auto"
    assert not sent(encoder, input="Hi", truncation="auto").meta.num_dropped
    with pytest.raises(ContextLengthExceeded):
        sent(encoder, input=[RULES, user("word " * 2000)], truncation="auto", tools=[TOOL])
